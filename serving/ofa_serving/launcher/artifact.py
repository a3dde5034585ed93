"""One built checkpoint on disk: its manifest, its models, the image whose caption is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput

from ofa_serving.contract import Tensor
from ofa_serving.images import ImageLimits
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.shared_memory import ModelMemory
from ofa_serving.manifest import FILE_NAME, Manifest, ManifestError

_MODEL_FILES = {"python": "model.py", "onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""What a backend's models need in their version's folder; a backend that is not here cannot be served."""

_BYTES_OF = {
    DataType.TYPE_UINT8: 1,
    DataType.TYPE_INT8: 1,
    DataType.TYPE_BOOL: 1,
    DataType.TYPE_FP16: 2,
    DataType.TYPE_INT16: 2,
    DataType.TYPE_UINT16: 2,
    DataType.TYPE_INT64: 8,
    DataType.TYPE_UINT64: 8,
    DataType.TYPE_FP64: 8,
}
_BYTES_OF_OTHERS = 4
_BYTES_OF_TEXT = 1024

_VARIABLE_DIMENSION = 1024
"""What a dimension without a fixed size is counted as: more patches, and more tokens, than OFA has."""


@dataclass(frozen=True)
class Artifact:
    """A folder the builder made: ``manifest.json``, ``model_repository/`` and ``canary/``."""

    folder: Path
    manifest: Manifest
    models: tuple[ModelConfig, ...]

    @property
    def name(self) -> str:
        """The public model's name."""
        return self.manifest.name

    @property
    def repository(self) -> Path:
        """What Triton serves."""
        return self.folder / "model_repository"

    @property
    def needs_gpu(self) -> bool:
        """Whether it was built for a GPU."""
        return self.manifest.device == "gpu"

    def memory(self) -> list[ModelMemory]:
        """Return what each model keeps in shared memory; those of native backends, and the ensemble, keep nothing."""
        return [_memory(model) for model in self.models if model.backend in {"python", "onnxruntime"}]


def load_artifact(artifacts: Path, name: str) -> Artifact:
    """Read and verify the checkpoint that was built as ``name``.

    Raises:
        LaunchError: it was never built, is incomplete or damaged, or does not fit this machine.

    """
    folder = artifacts / name
    try:
        manifest = Manifest.read(folder / FILE_NAME)
        if manifest.name != name:
            raise LaunchError(f"the manifest in {folder} is of {manifest.name}: build {name} again")
        manifest.verify(folder)
    except ManifestError as error:
        raise LaunchError(str(error)) from error
    models = tuple(_read_models(folder / "model_repository"))
    if name not in {model.name for model in models}:
        raise LaunchError(f"the repository of {name} has no model of that name: build it again")
    return Artifact(folder, manifest, models)


def _read_models(repository: Path) -> Iterator[ModelConfig]:
    for path in sorted(repository.glob("*/config.pbtxt")):
        try:
            model = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        except (OSError, text_format.ParseError) as error:
            raise LaunchError(f"the configuration of {path.parent.name} cannot be read: build it again") from error
        model.name = model.name or path.parent.name
        if model.platform != "ensemble":
            _check_model_file(model, path.parent)
        yield model


def _check_model_file(model: ModelConfig, folder: Path) -> None:
    if model.backend not in _MODEL_FILES:
        raise LaunchError(f"model {model.name} asks for the backend '{model.backend}', which this server lacks")
    file_name = model.default_model_filename or _MODEL_FILES[model.backend]
    if not any(path.is_file() for path in folder.glob(f"[1-9]*/{file_name}")):
        raise LaunchError(f"model {model.name} lacks its {file_name}: build it again")


def _memory(model: ModelConfig) -> ModelMemory:
    tensors = [*model.input, *model.output]
    in_flight = int(model.parameters["max_in_flight"].string_value or max(model.max_batch_size, 1))
    return ModelMemory(_instances(model), in_flight, sum(_tensor_bytes(tensor) for tensor in tensors))


def _instances(model: ModelConfig) -> int:
    groups: list[ModelInstanceGroup] = list(model.instance_group)
    return sum(max(group.count, 1) for group in groups) or 1


def _tensor_bytes(tensor: ModelInput | ModelOutput) -> int:
    count = math.prod(_VARIABLE_DIMENSION if dim < 0 else dim for dim in tensor.dims)
    if tensor.data_type == DataType.TYPE_STRING:
        return ImageLimits().max_bytes if tensor.name == Tensor.IMAGE else count * _BYTES_OF_TEXT
    return count * _BYTES_OF.get(tensor.data_type, _BYTES_OF_OTHERS)
