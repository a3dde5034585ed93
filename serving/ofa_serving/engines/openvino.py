"""Encoder and decoder in OpenVINO on CPU: the graphs that ONNX Runtime runs, and those in int8."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from ..beam_search import Candidates
from ..cores import usable_cores
from .base import EncoderEngine
from .cached import GraphEngine, StepMemory

PRECISIONS = ("fp32", "bf16", "int8")
"""The first two need no other graph: OpenVINO converts as it loads. What an int8 graph leaves is in bf16 if it can."""


@cache
def core() -> ov.Core:
    """OpenVINO's core, one for the process and never let go.

    The CPU plugin gives the thread that loads it a signal stack of its own and unmaps it when the last core goes; if
    another thread lets it go, the first one dies at its next signal.
    """
    return ov.Core()


def in_bf16(precision: str) -> bool:
    """Whether what is not of another type in the graph is computed in bf16."""
    if precision == "int8":
        return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision == "bf16"


def compiled(model: ov.Model, threads: int, precision: str) -> ov.CompiledModel:
    """A graph ready to run, as a single stream of ``threads`` threads.

    Args:
        model: the graph.
        threads: of the stream; 0 for one a usable core.
        precision: one of :data:`PRECISIONS`.
    """
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if in_bf16(precision) else "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "ENABLE_CPU_PINNING": False,  # the stages share the cores
    }
    return core().compile_model(model, "CPU", options)


class OpenVinoEncoder(EncoderEngine):
    """``model.onnx`` of one repository."""

    def __init__(self, directory: Path, threads: int, precision: str) -> None:
        graph = core().read_model(directory / "model.onnx")
        self._request = compiled(graph, threads, precision).create_infer_request()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """See :meth:`EncoderEngine.run`."""
        return self._request.infer([pixels], share_inputs=True, share_outputs=True)[0]


class OpenVinoEngine(GraphEngine):
    """``cross.onnx`` and ``step.onnx`` of one repository."""

    in_place = False  # OpenVINO may reuse an output's memory before the input is read

    def __init__(self, directory: Path, threads: int, precision: str) -> None:
        self._half = in_bf16(precision)
        self.dtype = np.uint16 if self._half else np.float32  # NumPy has no bfloat16: its bits
        cross, step = (self._read(directory / name) for name in ("cross.onnx", "step.onnx"))
        super().__init__({port.get_any_name(): _shape(port) for port in step.inputs})
        self._cross = compiled(cross, threads, precision).create_infer_request()
        self._step = compiled(step, threads, precision).create_infer_request()

    def run_cross(self, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`GraphEngine.run_cross`."""
        outputs = {name: np.empty((len(hidden), *shape), self.dtype) for name, shape in self.cross_shapes.items()}
        hidden = np.ascontiguousarray(hidden)
        self._cross.set_tensor("hidden", _tensor(hidden))
        for name, values in outputs.items():
            self._cross.set_tensor(name, _tensor(values))
        self._cross.infer()
        return outputs

    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        if not memory.prepared:
            new = {f"new_{name}": values for name, values in memory.new.items()}
            memory.prepared.update({name: _tensor(values) for name, values in (*memory.state.items(), *new.items())})
        given = {name: np.ascontiguousarray(values) for name, values in inputs.items()}
        for name, values in given.items():  # a tensor does not keep its array alive
            self._step.set_tensor(name, _tensor(values))
        for name, tensor in memory.prepared.items():
            self._step.set_tensor(name, tensor)
        self._step.infer()
        best = (self._step.get_tensor(name).data.copy() for name in ("ids", "logprobs", "eos", "unk"))
        return Candidates(*best)

    def _read(self, path: Path) -> ov.Model:
        """A graph whose caches and cross-attention tensors, in and out, have this engine's type."""
        model = core().read_model(path)
        if not self._half:
            return model
        steps = PrePostProcessor(model)
        for ports, access in ((model.inputs, steps.input), (model.outputs, steps.output)):
            for name in (port.get_any_name() for port in ports):
                if name.startswith(("cross_", "self_", "new_")):
                    access(name).tensor().set_element_type(ov.Type.bf16)
        return steps.build()


def _tensor(values: np.ndarray) -> ov.Tensor:
    """A tensor over an array's memory; 16-bit integers are the bits of bfloat16."""
    if values.dtype == np.uint16:
        return ov.Tensor(values, ov.Shape(values.shape), ov.Type.bf16)
    return ov.Tensor(values, shared_memory=True)


def _shape(port: ov.Output) -> list[int]:
    return [dimension.get_length() if dimension.is_static else -1 for dimension in port.get_partial_shape()]
