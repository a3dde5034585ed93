"""Encoder and decoder in ONNX Runtime on CPU; the decoder's step updates the caches where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..beam_search import Candidates
from ..cores import usable_cores
from .base import EncoderEngine
from .cached import GraphEngine

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

    def run_step(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
    ) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        binding = self._step.io_binding()
        for name, values in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(values))
        for name, values in state.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
        for name, values in new.items():
            binding.bind_ortvalue_output(f"new_{name}", ort.OrtValue.ortvalue_from_numpy(values))
        for name in ("ids", "logprobs", "eos", "unk"):
            binding.bind_output(name)
        self._step.run_with_iobinding(binding)
        return Candidates(*(value.numpy() for value in binding.get_outputs()[-4:]))
