"""One built checkpoint on disk: its manifest, its models, the image whose caption is known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput

from ofa_serving.contract import MAX_LENGTH, Tensor
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.shared_memory import ModelMemory
from ofa_serving.manifest import FILE_NAME, Manifest, ManifestError

_MODEL_FILES = {"python": "model.py", "onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""What a backend's models need in their version's folder; a backend that is not here cannot be served."""

_IN_SHARED_MEMORY = ("python", "onnxruntime")
"""The backends whose models are processes of their own, here where ``onnxruntime`` is a Python-based one."""

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
_BYTES_OF_IMAGE = 4 * 2**20
"""A large photograph's file; single ones may be larger."""

_VARIABLE_DIMENSION = MAX_LENGTH + 1
"""What a dimension without a fixed size is counted as: the most tokens a caption has; it never has more captions."""


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
    def digest(self) -> str:
        """The SHA-256 of its manifest, which names that of every file: another build has another."""
        return hashlib.sha256((self.folder / FILE_NAME).read_bytes()).hexdigest()

    @property
    def needs_gpu(self) -> bool:
        """Whether it was built for a GPU."""
        return self.manifest.device == "gpu"

    @property
    def max_running(self) -> int:
        """How many requests the public model has in its stages at a time; 0 if it leaves the calls to Triton."""
        return next(_limit(model, "max_running") or 0 for model in self.models if model.name == self.name)

    @property
    def max_in_flight(self) -> int:
        """How many images the public model admits at a time; 0 if it leaves that to Triton."""
        return next(_limit(model, "max_in_flight") or 0 for model in self.models if model.name == self.name)

    def memory(self) -> list[ModelMemory]:
        """Return what each model keeps in shared memory; those of native backends, and an ensemble, keep nothing.

        The public model holds what its stages answer beside its own tensors, and no stage has more requests than it.
        """
        memory = []
        for model in self.models:
            tensors = [*model.input, *model.output]
            in_flight = _limit(model, "max_in_flight")
            if model.name == self.name:
                tensors += [tensor for stage in self.models if stage is not model for tensor in stage.output]
            elif self.max_in_flight and in_flight is not None:
                in_flight = min(in_flight, self.max_in_flight)
            if model.backend in _IN_SHARED_MEMORY:
                count = in_flight or max(model.max_batch_size, 1)
                memory.append(ModelMemory(_instances(model), count, sum(map(_tensor_bytes, tensors))))
        return memory


def load_artifact(artifacts: Path, name: str, runs_here: bool = True) -> Artifact:
    """Read and verify the checkpoint that was built as ``name``; that it fits this machine only if it ``runs_here``.

    Raises:
        LaunchError: it was never built, is incomplete or damaged, or does not fit.

    """
    folder = artifacts / name
    try:
        manifest = Manifest.read(folder / FILE_NAME)
        if manifest.name != name:
            raise LaunchError(f"the manifest in {folder} is of {manifest.name}: build {name} again")
        if runs_here:
            manifest.verify(folder)
        else:
            manifest.verify_files(folder)
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


def _limit(model: ModelConfig, name: str) -> int | None:
    """Return a limit the model sets itself; None if it leaves that to Triton."""
    return int(model.parameters[name].string_value) if name in model.parameters else None


def _instances(model: ModelConfig) -> int:
    groups: list[ModelInstanceGroup] = list(model.instance_group)
    return sum(max(group.count, 1) for group in groups) or 1


def _tensor_bytes(tensor: ModelInput | ModelOutput) -> int:
    count = math.prod(_VARIABLE_DIMENSION if dim < 0 else dim for dim in tensor.dims)
    if tensor.data_type == DataType.TYPE_STRING:
        return _BYTES_OF_IMAGE if tensor.name == Tensor.IMAGE else count * _BYTES_OF_TEXT
    return count * _BYTES_OF.get(tensor.data_type, _BYTES_OF_OTHERS)
