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
        precision: ``fp32``, ``bf16`` with OpenVINO, ``fp16`` on a GPU; what was exported or built has its own.
        threads: of an engine on the CPU; 0 for one a usable core.
        device: ``cpu``; ``gpu`` or ``gpu:1``, or ``host``, see :meth:`Device.named`.
    """

    kind: str
    precision: str = "fp32"
    threads: int = 0
    device: str = CPU


def load_encoder(choice: EngineChoice, directory: Path) -> EncoderEngine:
    """Loads the encoder built into a version folder."""
    if choice.kind == "openvino":
        from .openvino import OpenVinoEncoder

        return OpenVinoEncoder(directory, choice.threads, choice.precision)
    if choice.device == CPU:
        from .onnxruntime import OnnxRuntimeEncoder

        return OnnxRuntimeEncoder(directory, choice.threads)
    from .device import Device

    if choice.kind == "tensorrt":
        from .tensorrt import TensorRtEncoder

        return TensorRtEncoder(directory, Device.named(choice.device))
    from .onnxruntime_device import DeviceEncoder

    return DeviceEncoder(directory, Device.named(choice.device))


def load_decoder(choice: EngineChoice, directory: Path) -> DecoderEngine:
    """Loads the decoder built into a version folder of the beam search's model."""
    if choice.kind == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(directory, choice.threads, choice.precision)
    if choice.device == CPU:
        from .onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(directory, choice.threads)
    from .device import Device

    if choice.kind == "tensorrt":
        from .tensorrt import TensorRtEngine

        return TensorRtEngine(directory, Device.named(choice.device))
    from .onnxruntime_device import DeviceEngine

    return DeviceEngine(directory, Device.named(choice.device))
