"""The decoder as TensorRT plans, its caches on the GPU. Written for NVIDIA's container; not run on this project's CI.

CuPy holds the device memory: its arrays behave as NumPy's do, so the batch is the same code as on CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import tensorrt as trt

from ..beam_search import Candidates
from .cached import GraphEngine


class TensorRtEngine(GraphEngine):
    """``cross.plan`` and ``step.plan`` of one repository."""

    xp = cupy
    in_place = False  # TensorRT may read an input after it has written an output

    def __init__(self, directory: Path) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._cross, self._step = (
            _Plan(runtime, directory / f"{name}.plan", self._stream) for name in ("cross", "step")
        )
        super().__init__(self._step.input_shapes)

    def run_cross(self, hidden: np.ndarray) -> dict[str, Any]:
        """See :meth:`GraphEngine.run_cross`."""
        with self._stream:
            return self._cross.run({"hidden": cupy.asarray(hidden)}, {})

    def run_step(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        with self._stream:
            outputs = self._step.run({**inputs, **state}, {f"new_{name}": values for name, values in new.items()})
            best = (outputs[name].get() for name in ("ids", "logprobs", "eos", "unk"))
            return Candidates(*best)  # .get() waits for the stream


class _Plan:
    """One plan, its execution context and the memory it was last given."""

    def __init__(self, runtime: trt.Runtime, path: Path, stream: cupy.cuda.Stream) -> None:
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ValueError(f"{path.name} was built for another GPU or TensorRT version; build it again")
        self._context, self._stream = self._engine.create_execution_context(), stream
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.input_shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in inputs}
        self._outputs = [name for name in names if name not in self.input_shapes]

    def run(self, inputs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name, in the memory ``given`` for them or in new memory; queued on the stream."""
        held = []  # until the work is queued
        for name, values in inputs.items():
            on_host = self._engine.is_shape_inference_io(name)
            array = np.ascontiguousarray(values) if on_host else cupy.ascontiguousarray(cupy.asarray(values))
            held.append(array)
            if not on_host:
                self._context.set_input_shape(name, array.shape)
            self._context.set_tensor_address(name, array.ctypes.data if on_host else array.data.ptr)
        self._context.infer_shapes()
        outputs = dict(given)
        for name in self._outputs:
            if name not in outputs:
                dtype = trt.nptype(self._engine.get_tensor_dtype(name))
                outputs[name] = cupy.empty(tuple(self._context.get_tensor_shape(name)), dtype)
            self._context.set_tensor_address(name, outputs[name].data.ptr)
        if not self._context.execute_async_v3(self._stream.ptr):
            raise RuntimeError("TensorRT could not run the plan")
        return outputs
