"""See ofa_serving.models.entry; Triton looks for this name."""

from ofa_serving.models.entry import EntryModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
