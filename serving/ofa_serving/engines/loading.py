"""From an engine's name to the engine."""

from __future__ import annotations

from pathlib import Path

from .base import DecoderEngine


def load_engine(kind: str, directory: Path, threads: int) -> DecoderEngine:
    """Loads the decoder built into ``directory``; a kind's libraries are imported only when it is asked for.

    Args:
        kind: ``onnxruntime`` or ``tensorrt``.
        directory: a version folder of the beam search's model.
        threads: for CPU engines.
    """
    if kind == "onnxruntime":
        from .onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415

        return OnnxRuntimeEngine(directory, threads)
    if kind == "tensorrt":
        from .tensorrt import TensorRtEngine  # noqa: PLC0415

        return TensorRtEngine(directory)
    raise ValueError(f"no engine is called {kind}")
