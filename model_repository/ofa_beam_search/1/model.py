"""See ofa_serving.models.beam_search; Triton looks for this name."""

from ofa_serving.models.beam_search import BeamSearchModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
