"""Where an engine keeps its memory: on a GPU, through CuPy, or on the host.

CuPy's arrays behave as NumPy's do, so that code over ``Device.xp`` is the same on both. The engines made for a GPU run
on the host as well (device ``host``): that is how they are tested where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

import numpy as np
import onnxruntime

Array = Any
"""A NumPy array, or a CuPy array on a GPU."""

GPU, HOST = "gpu", "host"
_ALIGNMENT = 256


@dataclass(frozen=True)
class Device:
    """One GPU, or the host in its place.

    Attributes:
        xp: NumPy, or CuPy.
        number: the GPU's.
        stream: the CUDA stream that all of an engine's work goes to; None on the host.
    """

    xp: ModuleType
    number: int = 0
    stream: Any = None

    @classmethod
    def named(cls, name: str) -> Self:
        """``gpu``, ``gpu:1`` for another than the first, or ``host``.

        Raises:
            ModuleNotFoundError: CuPy is not installed.
        """
        if name == HOST:
            return cls(np)
        onnxruntime.preload_dlls()  # CUDA's libraries may have come as Python packages, and CuPy needs them too
        import cupy  # noqa: PLC0415

        number = int(name.partition(":")[2] or 0)
        with cupy.cuda.Device(number):
            return cls(cupy, number, cupy.cuda.Stream(non_blocking=True))

    @property
    def is_gpu(self) -> bool:
        """Whether memory is a GPU's."""
        return self.stream is not None

    def enter(self) -> None:
        """Makes the device and its stream this thread's own: copies and kernels then follow each other in order."""
        if self.is_gpu:
            self.xp.cuda.Device(self.number).use()
            self.stream.use()

    def wait(self) -> None:
        """Returns when all that was queued is done."""
        if self.is_gpu:
            self.stream.synchronize()

    def address(self, array: Array) -> int:
        """Where a contiguous array begins."""
        return array.data.ptr if self.is_gpu else array.ctypes.data

    def stacked(self, arrays: Sequence[Array]) -> Array:
        """Arrays of the host or the device as one array on the device."""
        return self.xp.stack([self.xp.asarray(array) for array in arrays])


class Block:
    """Small tensors side by side in one block of host memory, and in one of the device: a single copy moves them all.

    On the host both are the same memory and nothing is copied.
    """

    def __init__(self, device: Device, tensors: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """``tensors`` are shapes and types by name."""
        self._device, offsets, size = device, {}, 0
        for name, (shape, dtype) in tensors.items():
            offsets[name] = size
            size += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        self._host = self._memory = np.zeros(size, np.uint8)
        if device.is_gpu:
            import cupyx  # noqa: PLC0415

            self._host = cupyx.zeros_pinned(size, np.uint8)  # copies to and from pinned memory need no detour
            self._memory = device.xp.zeros(size, np.uint8)

        def views(memory: Array) -> dict[str, Array]:
            parts = {}
            for name, (shape, dtype) in tensors.items():
                end = offsets[name] + int(np.prod(shape)) * np.dtype(dtype).itemsize
                parts[name] = memory[offsets[name] : end].view(dtype).reshape(shape)
            return parts

        self.host, self.device = views(self._host), views(self._memory)

    def upload(self) -> None:
        """Queues the copy to the device."""
        if self._device.is_gpu:
            self._memory.set(self._host, stream=self._device.stream)

    def download(self) -> None:
        """Copies from the device, after all that was queued."""
        if self._device.is_gpu:
            self._memory.get(stream=self._device.stream, out=self._host)
            self._device.wait()


def on_host(array: Array) -> np.ndarray:
    """The array in host memory."""
    return array if isinstance(array, np.ndarray) else array.get()
