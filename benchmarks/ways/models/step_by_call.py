"""The search's ``model.py`` for benchmarks.ways.step_by_call."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from ofa_serving.beam_search import Candidates
from ofa_serving.engines.cached import GraphEngine, StepMemory
from ofa_serving.engines.loading import EngineChoice
from ofa_serving.models import beam_search


class CallingEngine(GraphEngine):
    """Graphs that other models run."""

    in_place = False  # what comes back lies in the other process's memory

    def __init__(self, choice: EngineChoice, directory: Path) -> None:
        del choice
        self._model = directory.parent.name
        step = ort.InferenceSession(directory / "step.onnx", providers=["CPUExecutionProvider"])
        super().__init__({node.name: node.shape for node in step.get_inputs()})

    def run_cross(self, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`GraphEngine.run_cross`."""
        return self._call("cross", {"hidden": hidden}, list(self.cross_shapes))

    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        best = ["ids", "logprobs", "eos", "unk"]
        outputs = self._call("step", {**inputs, **memory.state}, [*best, *(f"new_{name}" for name in memory.new)])
        for name, values in memory.new.items():
            values[:] = outputs[f"new_{name}"]
        return Candidates(*(outputs[name].copy() for name in best))

    def _call(self, graph: str, inputs: Mapping[str, np.ndarray], wanted: list[str]) -> dict[str, np.ndarray]:
        response = pb_utils.InferenceRequest(
            model_name=f"{self._model}_{graph}",
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(values)) for name, values in inputs.items()],
            requested_output_names=wanted,
        ).exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in wanted}


beam_search.load_decoder = CallingEngine
TritonPythonModel = beam_search.BeamSearchModel
