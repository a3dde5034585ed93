"""Encoder and decoder in OpenVINO on CPU, in float32 or bfloat16, from the graphs that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov

from ..beam_search import Candidates
from .base import EncoderEngine
from .cached import GraphEngine

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""The precisions that need no other graph: OpenVINO converts as it loads."""


def compiled(path: Path, threads: int, precision: str) -> ov.CompiledModel:
    """One graph, ready to run: a single stream of ``threads`` threads (0: one a core).

    Args:
        path: an exported graph.
        threads: of the stream.
        precision: a key of :data:`PRECISIONS`.
    """
    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the stages share the cores
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return ov.Core().compile_model(path, "CPU", options)


class OpenVinoEncoder(EncoderEngine):
    """``model.onnx`` of one repository."""

    def __init__(self, directory: Path, threads: int, precision: str) -> None:
        self._request = compiled(directory / "model.onnx", threads, precision).create_infer_request()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """See :meth:`EncoderEngine.run`."""
        return self._request.infer([pixels], share_inputs=True, share_outputs=True)[0]


class OpenVinoEngine(GraphEngine):
    """``cross.onnx`` and ``step.onnx`` of one repository."""

    in_place = False  # OpenVINO may reuse an output's memory before the input is read

    def __init__(self, directory: Path, threads: int, precision: str) -> None:
        self._cross = compiled(directory / "cross.onnx", threads, precision).create_infer_request()
        step = compiled(directory / "step.onnx", threads, precision)
        self._step = step.create_infer_request()
        shapes = {
            port.get_any_name(): [dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape()]
            for port in step.inputs
        }
        super().__init__(shapes)

    def run_cross(self, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`GraphEngine.run_cross`."""
        outputs = self._cross.infer([np.ascontiguousarray(hidden)], share_inputs=True, share_outputs=True)
        return {name: outputs[name] for name in self.cross_shapes}

    def run_step(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
    ) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        for name, values in (*inputs.items(), *state.items()):
            self._step.set_tensor(name, ov.Tensor(np.ascontiguousarray(values), shared_memory=True))
        for name, values in new.items():
            self._step.set_tensor(f"new_{name}", ov.Tensor(values, shared_memory=True))
        self._step.infer()
        best = (self._step.get_tensor(name).data.copy() for name in ("ids", "logprobs", "eos", "unk"))
        return Candidates(*best)
