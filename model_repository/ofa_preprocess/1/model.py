"""See ofa_serving.models.preprocess; Triton looks for this name."""

from ofa_serving.models.preprocess import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
