"""Encoder and decoder in ONNX Runtime on CPU; the decoder's step updates the caches where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..beam_search import Candidates
from ..cores import usable_cores
from .base import EncoderEngine
from .cached import GraphEngine, StepMemory

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""NumPy's types by ONNX Runtime's names, those that caches and states have."""


def session(path: Path, threads: int) -> ort.InferenceSession:
    """A CPU session over one graph with ``threads`` threads (0: one a usable core) that sleep when idle.

    Spinning threads would take the cores from the other stages of the pipeline.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEncoder(EncoderEngine):
    """``model.onnx`` of one repository, where Triton's own backend does not run it."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._session = session(directory / "model.onnx", threads)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """See :meth:`EncoderEngine.run`."""
        return self._session.run(["hidden"], {"pixels": pixels})[0]


class OnnxRuntimeEngine(GraphEngine):
    """``cross.onnx`` and ``step.onnx`` of one repository."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._cross = session(directory / "cross.onnx", threads)
        self._step = session(directory / "step.onnx", threads)
        inputs = {node.name: node for node in self._step.get_inputs()}
        super().__init__({name: node.shape for name, node in inputs.items()})
        self.dtype = TYPES[inputs[self.cache_names[0]].type]

    def run_cross(self, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`GraphEngine.run_cross`."""
        names = list(self.cross_shapes)
        return dict(zip(names, self._cross.run(names, {"hidden": hidden}), strict=True))

    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        shape = inputs["ancestors"].shape
        step = memory.prepared.get(shape)
        if step is None:
            step = memory.prepared[shape] = _BoundStep(self._step, inputs, memory)
        return step.run(inputs)


class _BoundStep:
    """A step of fixed shapes over fixed memory: to bind all of it anew each time would take a tenth of its time.

    Only the count of candidates may change, as it does with what the search's rules may remove: a step kept for each
    count of each batch size would add up to hundreds of megabytes.
    """

    def __init__(self, step: ort.InferenceSession, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> None:
        self._step, self._binding = step, step.io_binding()
        self._inputs = {name: np.empty_like(values, order="C") for name, values in inputs.items()}
        self._outputs = {name: np.empty(inputs["tokens"].shape, np.float32) for name in ("eos", "unk")}
        new = {f"new_{name}": values for name, values in memory.new.items()}
        self._bind({**self._inputs, **memory.state}, {**self._outputs, **new})
        self._make_room(inputs["ranks"])

    def run(self, inputs: Mapping[str, np.ndarray]) -> Candidates:
        if len(inputs["ranks"]) != len(self._inputs["ranks"]):
            self._make_room(inputs["ranks"])
        for name, values in inputs.items():
            self._inputs[name][...] = values
        self._step.run_with_iobinding(self._binding)
        return Candidates(**{name: values.copy() for name, values in self._outputs.items()})

    def _make_room(self, ranks: np.ndarray) -> None:
        """Makes room for so many candidates of each beam."""
        best = (*self._outputs["eos"].shape, len(ranks))
        room = {"ids": np.empty(best, np.int64), "logprobs": np.empty(best, np.float32)}
        self._inputs["ranks"] = np.empty_like(ranks)
        self._outputs |= room
        self._bind({"ranks": self._inputs["ranks"]}, room)

    def _bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        for name, values in inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
        for name, values in outputs.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(values))
