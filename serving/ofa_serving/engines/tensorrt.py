"""Encoder and decoder as TensorRT plans on a GPU. Not run on this project's CI, which has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import tensorrt as trt

from ..beam_search import Candidates
from .base import EncoderEngine
from .cached import GraphBatch, GraphEngine, StepMemory
from .device import Device


class TensorRtEncoder(EncoderEngine):
    """``model.plan`` of one repository."""

    def __init__(self, directory: Path, device: Device) -> None:
        self._device = device
        self._plan = _Plan(directory / "model.plan", device)

    def run(self, pixels: np.ndarray) -> Any:
        """See :meth:`EncoderEngine.run`; the states lie on the GPU."""
        self._device.enter()
        hidden = self._plan.run({"pixels": pixels}, {})["hidden"]
        self._device.wait()  # another thread's stream reads them next
        return hidden


class TensorRtEngine(GraphEngine):
    """``cross.plan`` and ``step.plan`` of one repository."""

    xp = cupy
    in_place = False  # TensorRT may read an input after it has written an output
    growth = 64

    def __init__(self, directory: Path, device: Device) -> None:
        self._device = device
        device.enter()
        self._cross, self._step = (_Plan(directory / f"{name}.plan", device) for name in ("cross", "step"))
        super().__init__(self._step.input_shapes)
        self.dtype = self._step.dtype(self.cache_names[0])

    def open(self, beam_size: int) -> GraphBatch:
        """See :meth:`DecoderEngine.open`; everything of a batch happens in the thread that opens it."""
        self._device.enter()
        return GraphBatch(self, beam_size)

    def stacked(self, states: Sequence[Any]) -> Any:
        """See :meth:`GraphEngine.stacked`."""
        return self._device.stacked(states).astype(self.dtype, copy=False)

    def run_cross(self, hidden: Any) -> dict[str, Any]:
        """See :meth:`GraphEngine.run_cross`."""
        return self._cross.run({"hidden": hidden}, {})

    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        new = {f"new_{name}": values for name, values in memory.new.items()}
        outputs = self._step.run({**inputs, **memory.state}, new)
        best = (outputs[name].get() for name in ("ids", "logprobs", "eos", "unk"))
        return Candidates(*best)  # .get() waits for the stream


class _Plan:
    """One plan and its execution context."""

    def __init__(self, path: Path, device: Device) -> None:
        device.enter()
        self._runtime, self._stream = trt.Runtime(trt.Logger(trt.Logger.WARNING)), device.stream
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ValueError(f"{path.name} was built for another GPU or TensorRT version; build it again")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.input_shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in inputs}
        self._outputs = [name for name in names if name not in self.input_shapes]

    def dtype(self, name: str) -> Any:
        """A tensor's NumPy type."""
        return trt.nptype(self._engine.get_tensor_dtype(name))

    def run(self, inputs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name, in the memory ``given`` for them or in new memory; queued on the device's stream."""
        held = []  # until the work is queued: from then on, what reuses the memory comes after it on the stream
        for name, values in inputs.items():
            array = cupy.ascontiguousarray(cupy.asarray(values))
            held.append(array)
            self._context.set_input_shape(name, array.shape)
            self._context.set_tensor_address(name, array.data.ptr)
        self._context.infer_shapes()
        outputs = dict(given)
        for name in self._outputs:
            if name not in outputs:
                outputs[name] = cupy.empty(tuple(self._context.get_tensor_shape(name)), self.dtype(name))
            self._context.set_tensor_address(name, outputs[name].data.ptr)
        if not self._context.execute_async_v3(self._stream.ptr):
            raise RuntimeError("TensorRT could not run the plan")
        return outputs
