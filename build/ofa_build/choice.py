"""Which engine and precision to build, where the user leaves it to the machine. ``benchmarks/notes.md`` has the why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"
PRECISIONS = {
    "cpu": {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16", "int8")},
    "gpu": {"onnxruntime": ("fp32", "fp16"), "tensorrt": ("fp32", "fp16")},
}
"""What each engine is built in, on each device; fp32 gives the reference's captions exactly."""

ENGINES = tuple(dict.fromkeys(engine for engines in PRECISIONS.values() for engine in engines))

INSTRUCTIONS = {
    "bf16": frozenset({"amx_bf16", "avx512_bf16"}),
    "int8": frozenset({"amx_int8", "avx512_vnni", "avx_vnni"}),
}
"""What makes a precision faster than fp32 on a CPU, by its names in the kernel."""


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
        engine: one of :data:`ENGINES` or ``auto``.
        precision: one of the engine's or ``auto``. Exact captions need fp32: nothing else is chosen unasked.
        device: ``cpu`` or ``gpu``.
        instructions: of the CPU, see :func:`cpu_instructions`.

    Raises:
        ChoiceError: for a combination that is not built.
    """
    if engine not in (AUTO, *PRECISIONS[device]):
        where = next(name for name, engines in PRECISIONS.items() if engine in engines)
        raise ChoiceError(f"engine {engine} is for --device {where}")
    precision, why = _precision(engine, precision, device, instructions)
    if engine == AUTO:
        engine, chosen = _engine(precision, device)
        why = f"{why}; {chosen}"
    built = PRECISIONS[device][engine]
    if precision not in built:
        where = f"engine {engine} on a {device.upper()}"
        raise ChoiceError(f"{where} is built in {' or '.join(built)}, not in {precision}")
    return Choice(engine, precision, why)


def _precision(engine: str, precision: str, device: str, instructions: frozenset[str]) -> tuple[str, str]:
    """The precision and why."""
    if device == "cpu" and precision in INSTRUCTIONS and instructions.isdisjoint(INSTRUCTIONS[precision]):
        return precision, f"as asked, but this CPU has no {precision} instructions: expect no gain over fp32 on it"
    if precision != AUTO:
        return precision, "as asked"
    if device == "gpu":
        return "fp16", "a GPU multiplies matrices fastest in half precision"
    native = sorted(instructions & INSTRUCTIONS["bf16"])
    if native and engine in (AUTO, "openvino"):
        return "bf16", f"this CPU has {native[0]}"
    return "fp32", "nothing faster is offered here"


def _engine(precision: str, device: str) -> tuple[str, str]:
    """The engine and why."""
    if device == "gpu":
        return "onnxruntime", "onnxruntime runs on every GPU; tensorrt has to be asked for until both are measured"
    engine = "onnxruntime" if precision in PRECISIONS["cpu"]["onnxruntime"] else "openvino"
    return engine, f"{engine} is the fastest measured in {precision} on a CPU"
