"""``manifest.json``: what a built repository is made of, so that a server can refuse what it cannot serve.

The builder writes it last, beside ``model_repository/``; the server verifies it first. Every refusal is a
:class:`ManifestError` of one line that says what to do about it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ofa_serving.cores import usable_cores
from ofa_serving.host import Gpu, installed_version, visible_gpu

SCHEMA = 2
"""Raised whenever a field is added, dropped or changes its meaning, here or in the models' configurations."""

FILE_NAME = "manifest.json"


class ManifestError(Exception):
    """A built repository that cannot be served here; ``str(error)`` is one line for its operator."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Where the weights came from."""

    name: str
    format: str
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """A file the server reads: an engine, the vocabulary, the known image.

    ``path`` is relative to the manifest's folder.
    """

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, directory: Path, path: Path) -> Self:
        """Describe the file at ``path``, which lies under ``directory``."""
        return cls(path.relative_to(directory).as_posix(), path.stat().st_size, _sha256(path))

    @classmethod
    def all_of(cls, directory: Path) -> tuple[Self, ...]:
        """Describe every file under ``directory``, which has no manifest yet."""
        return tuple(cls.of(directory, path) for path in sorted(directory.rglob("*")) if path.is_file())


@dataclass(frozen=True)
class Manifest:
    """One checkpoint, built.

    Attributes:
        name: the public model's name, and the name of the folder under ``artifacts/``.
        checkpoint: the weights it was built from.
        language: ``en`` or ``zh``.
        sizes: the model's sizes: ``image_size``, ``d_model``, ``vocab_size`` and so on.
        engine: what runs the graphs: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        device: ``cpu`` or ``gpu``.
        gpu: the GPU a plan was built on; None for engines that are not tied to one.
        versions: of the packages it was built with, by distribution name.
        files: every file that serving depends on; the builder names all but the manifest itself.
        created: when, ISO 8601 in UTC.

    """

    name: str
    checkpoint: CheckpointRecord
    language: str
    sizes: Mapping[str, int]
    engine: str
    precision: str
    device: str
    gpu: Gpu | None
    versions: Mapping[str, str]
    files: tuple[FileRecord, ...]
    created: str

    def write(self, path: Path) -> None:
        """Write the manifest to ``path``, whole or not at all."""
        text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a manifest.

        Raises:
            ManifestError: there is none, it is damaged, or another version of this project wrote it.

        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ManifestError(f"no {path.name} in {path.parent}: build the checkpoint first") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
            raise ManifestError(f"{path} cannot be read ({reason}): build the checkpoint again") from error
        schema = document.pop("schema", None) if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise ManifestError(f"{path} has schema {schema}, this server reads {SCHEMA}: build the checkpoint again")
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, AttributeError) as error:
            raise ManifestError(f"{path} is not a manifest ({error}): build the checkpoint again") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Self:
        return cls(
            **document
            | {
                "checkpoint": CheckpointRecord(**document["checkpoint"]),
                "gpu": Gpu(**document["gpu"]) if document["gpu"] is not None else None,
                "files": tuple(FileRecord(**record) for record in document["files"]),
            }
        )

    def verify(self, directory: Path) -> None:
        """Check that what the manifest names is there, undamaged, and can run on this machine.

        Args:
            directory: the manifest's folder.

        Raises:
            ManifestError: the first thing that does not match.

        """
        self._verify_versions()
        self._verify_gpu()
        self.verify_files(directory)

    def verify_files(self, directory: Path) -> None:
        """Check that what the manifest names is there and undamaged, whichever machine it is to run on.

        Args:
            directory: the manifest's folder.

        Raises:
            ManifestError: the first thing that does not match.

        """
        self._verify_named(directory)
        self._verify_that_is_all(directory)

    def _verify_versions(self) -> None:
        built = self.versions.get(self.engine)
        if built is None:
            raise ManifestError(f"the manifest of {self.name} names no version of its engine, {self.engine}")
        installed = installed_version(self.engine)
        if installed is None:
            raise ManifestError(f"{self.name} needs {self.engine} {built}, which is not installed")
        # A plan runs only in the version that built it; a graph also in every later one.
        fits = installed == built if self.engine == "tensorrt" else _numbers(installed) >= _numbers(built)
        if not fits:
            raise ManifestError(
                f"{self.name} was built with {self.engine} {built}, {installed} is installed: build it again"
            )

    def _verify_gpu(self) -> None:
        if self.device != "gpu":
            return
        gpu = visible_gpu()
        if gpu is None:
            raise ManifestError(f"{self.name} was built for a GPU, and this machine shows none")
        if self.gpu is not None and gpu.compute_capability != self.gpu.compute_capability:
            raise ManifestError(
                f"{self.name} was built for {self.gpu.name} (compute capability {self.gpu.compute_capability}), "
                f"this machine has {gpu.name} ({gpu.compute_capability}): build it again here"
            )

    def _verify_named(self, directory: Path) -> None:
        for record in self.files:  # sizes first: they cost nothing, and show most damage
            try:
                size = (directory / record.path).stat().st_size
            except OSError:
                raise ManifestError(f"{self.name} lacks {record.path}: build it again") from None
            if size != record.size:
                raise ManifestError(
                    f"{record.path} of {self.name} is damaged ({size} bytes instead of {record.size}): build it again"
                )
        paths = [directory / record.path for record in self.files]
        for record, digest in zip(self.files, _sha256_all(paths), strict=True):
            if digest != record.sha256:
                raise ManifestError(f"{record.path} of {self.name} is damaged (its hash differs): build it again")

    def _verify_that_is_all(self, directory: Path) -> None:
        """Triton serves whatever its repository holds, and of a model the version with the highest number."""
        named = {record.path for record in self.files}
        if not any(path.endswith("/config.pbtxt") for path in named):
            return  # written by hand, of engines alone: the builder names each model's configuration
        for folder, _, names in os.walk(directory / "model_repository", followlinks=True):
            for path in (Path(folder, name).relative_to(directory) for name in names):
                if path.as_posix() not in named and path.parent.name != "__pycache__":
                    raise ManifestError(f"{path} of {self.name} is not in its manifest: remove it or build it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_all(paths: Iterable[Path]) -> list[str]:
    """Hash side by side: hashlib releases the interpreter's lock."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(_sha256, paths))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
