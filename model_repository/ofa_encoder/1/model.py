"""See ofa_serving.models.encoder; used for engines that Triton has no backend for."""

from ofa_serving.models.encoder import EncoderModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
