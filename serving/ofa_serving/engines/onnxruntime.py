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
        key = inputs["ancestors"].shape, len(inputs["ranks"])
        step = memory.prepared.get(key)
        if step is None:
            step = memory.prepared[key] = _BoundStep(self._step, inputs, memory)
        return step.run(inputs)


class _BoundStep:
    """A step of fixed shapes over fixed memory: to bind it anew each time would take a tenth of its time."""

    def __init__(self, step: ort.InferenceSession, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> None:
        captions, beams, _ = inputs["ancestors"].shape
        each, best = (captions, beams), (captions, beams, len(inputs["ranks"]))
        found = {"ids": (best, np.int64), "logprobs": (best, np.float32), "eos": (each, np.float32)}
        found["unk"] = found["eos"]
        self._inputs = {name: np.empty_like(values, order="C") for name, values in inputs.items()}
        self._outputs = {name: np.empty(*kind) for name, kind in found.items()}
        self._step, self._binding = step, step.io_binding()
        for name, values in {**self._inputs, **memory.state}.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
        for name, values in {**self._outputs, **{f"new_{name}": values for name, values in memory.new.items()}}.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(values))

    def run(self, inputs: Mapping[str, np.ndarray]) -> Candidates:
        for name, values in inputs.items():
            self._inputs[name][...] = values
        self._step.run_with_iobinding(self._binding)
        return Candidates(*(values.copy() for values in self._outputs.values()))
