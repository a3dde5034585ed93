"""From an engine's name to the engine. Its libraries are imported only when it is asked for."""

# ruff: noqa: PLC0415

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .base import DecoderEngine, EncoderEngine

CPU = "cpu"


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs, and where.

    Attributes:
        kind: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        precision: ``fp32``, with OpenVINO ``bf16`` and ``int8`` too, on a GPU ``fp16``; what was exported has its own.
        threads: of an engine on the CPU; 0 for one a usable core.
        device: ``cpu``; ``gpu`` or ``gpu:1``, or ``host``, see :meth:`Device.named`.
    """

    kind: str
    precision: str = "fp32"
    threads: int = 0
    device: str = CPU


def load_encoder(choice: EngineChoice, directory: Path) -> EncoderEngine:
    """Loads the encoder built into a version folder."""
    encoder, _, arguments = _engines(choice)
    return encoder(directory, *arguments)


def load_decoder(choice: EngineChoice, directory: Path) -> DecoderEngine:
    """Loads the decoder built into a version folder of the beam search's model."""
    _, decoder, arguments = _engines(choice)
    return decoder(directory, *arguments)


def _engines(choice: EngineChoice) -> tuple[type[EncoderEngine], type[DecoderEngine], tuple]:
    """The two classes, and what they take beside the folder."""
    if choice.kind == "openvino":
        from .openvino import OpenVinoEncoder, OpenVinoEngine

        return OpenVinoEncoder, OpenVinoEngine, (choice.threads, choice.precision)
    if choice.device == CPU:
        from .onnxruntime import OnnxRuntimeEncoder, OnnxRuntimeEngine

        return OnnxRuntimeEncoder, OnnxRuntimeEngine, (choice.threads,)
    from .device import Device

    device = Device.named(choice.device)
    if choice.kind == "tensorrt":
        from .tensorrt import TensorRtEncoder, TensorRtEngine

        return TensorRtEncoder, TensorRtEngine, (device,)
    from .onnxruntime_device import DeviceEncoder, DeviceEngine

    return DeviceEncoder, DeviceEngine, (device,)
