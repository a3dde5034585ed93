"""What the machine's arithmetic allows: the rate of a large matrix product, measured in the same run."""

from __future__ import annotations

import time

import torch

from .machine import fast_precisions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDES = {"cpu": 2048, "gpu": 8192, "host": 2048}
REPEATS = 5


def ceilings(device: str) -> dict[str, float]:
    """The best GFLOP/s of a product of two square matrices in fp32 and what the device has beside it, on all of it.

    A CPU without instructions for bf16 takes minutes for one product in it, and no engine computes in it there.
    """
    half = "fp16" if device == "gpu" else "bf16"
    has_half = device == "gpu" or half in fast_precisions()
    return {precision: _gflops(DTYPES[precision], device) for precision in ("fp32", *[half] * has_half)}


def _gflops(dtype: torch.dtype, device: str) -> float:
    side, place = SIDES[device], "cuda" if device == "gpu" else "cpu"
    a, b = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
    _product(a, b)
    return 2 * side**3 / min(_product(a, b) for _ in range(REPEATS)) / 1e9


def _product(a: torch.Tensor, b: torch.Tensor) -> float:
    """The seconds it takes."""
    started = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
