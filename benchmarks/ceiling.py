"""What the machine's arithmetic allows: the rate of a large matrix product, measured in the same run."""

from __future__ import annotations

import time

import torch

SIDE = 2048
REPEATS = 5


def matmul_gflops(dtype: torch.dtype) -> float:
    """The best GFLOP/s of a product of two square matrices on all cores."""
    a, b = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)
    a @ b
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds) / 1e9
