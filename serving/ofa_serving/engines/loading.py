"""From an engine's name to the engine. Its libraries are imported only when it is asked for."""

# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path

from .base import DecoderEngine, EncoderEngine


def load_encoder(kind: str, directory: Path, threads: int, precision: str) -> EncoderEngine:
    """Loads the encoder built into a version folder, for the CPU.

    Args:
        kind: ``onnxruntime`` or ``openvino``.
        directory: the folder.
        threads: 0 for one a usable core.
        precision: ``fp32``, or ``bf16`` with OpenVINO.
    """
    if kind == "openvino":
        from .openvino import OpenVinoEncoder

        return OpenVinoEncoder(directory, threads, precision)
    from .onnxruntime import OnnxRuntimeEncoder

    return OnnxRuntimeEncoder(directory, threads)


def load_decoder(kind: str, directory: Path, threads: int, precision: str) -> DecoderEngine:
    """Loads the decoder built into a version folder of the beam search's model.

    Args:
        kind: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        directory: the folder.
        threads: of a CPU engine; 0 for one a usable core.
        precision: see :func:`load_encoder`; a TensorRT plan has its own.
    """
    if kind == "tensorrt":
        from .tensorrt import TensorRtEngine

        return TensorRtEngine(directory)
    if kind == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(directory, threads, precision)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(directory, threads)
