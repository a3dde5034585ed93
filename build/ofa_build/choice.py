"""Which engine and precision to build, where the user leaves it to the machine. ``benchmarks/notes.md`` has the why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"
PRECISIONS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16"), "tensorrt": ("fp32",)}
"""What each engine is built in; fp32 gives the reference's captions exactly."""

BF16_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})


class ChoiceError(Exception):
    """An engine or precision that cannot be had; one line for the user."""


@dataclass(frozen=True)
class Choice:
    """What will be built, and why, in a line."""

    engine: str
    precision: str
    why: str


def cpu_instructions(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets that the kernel names, empty where it names none."""
    if not info.exists():
        return frozenset()
    lines = (line.partition(":") for line in info.read_text().splitlines())
    return next((frozenset(flags.split()) for name, _, flags in lines if name.strip() == "flags"), frozenset())


def choose(engine: str, precision: str, device: str, instructions: frozenset[str]) -> Choice:
    """Replaces ``auto`` by what this machine runs fastest.

    Args:
        engine: a key of :data:`PRECISIONS` or ``auto``.
        precision: one of the engine's or ``auto``. Exact captions need fp32: nothing else is chosen unasked.
        device: ``cpu`` or ``gpu``.
        instructions: of the CPU, see :func:`cpu_instructions`.

    Raises:
        ChoiceError: for a combination that is not built.
    """
    why = ["as asked"]
    native = sorted(instructions & BF16_INSTRUCTIONS)
    if precision == AUTO:
        precision = "bf16" if device == "cpu" and native and engine in (AUTO, "openvino") else "fp32"
        why = [f"this CPU has {native[0]}" if precision == "bf16" else "nothing faster is offered here"]
    elif precision == "bf16" and not native:
        why = ["as asked, but this CPU has no bf16 instructions: expect no gain over fp32 on it"]
    if engine == AUTO:
        engine = _engine(precision, device)
        why.append(f"{engine} is the fastest measured in {precision} on a {device.upper()}")
    if precision not in PRECISIONS[engine]:
        raise ChoiceError(f"engine {engine} is built in {' or '.join(PRECISIONS[engine])}, not in {precision}")
    if (engine == "tensorrt") != (device == "gpu"):
        raise ChoiceError("engine tensorrt is for --device gpu, the others are for cpu")
    return Choice(engine, precision, "; ".join(why))


def _engine(precision: str, device: str) -> str:
    if device == "gpu":
        return "tensorrt"
    return "onnxruntime" if precision in PRECISIONS["onnxruntime"] else "openvino"
