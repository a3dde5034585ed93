"""Built artifacts changed for a test: other limits, models with faults."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from ofa_serving.manifest import FILE_NAME, FileRecord, Manifest
from tritonclient.grpc.model_config_pb2 import ModelConfig


def altered(
    artifact: Path,
    artifacts: Path,
    *,
    limits: Mapping[str, int] | None = None,
    code: Mapping[str, str] | None = None,
) -> Path:
    """Copy a built artifact into the folder ``artifacts`` and change it, manifest and all.

    Args:
        artifact: what the builder made.
        artifacts: a folder that lacks it.
        limits: parameters of every model that has them.
        code: Python to add to the ``model.py`` of a model, by the model's name.
    """
    folder = artifacts / artifact.name
    shutil.copytree(artifact, folder)
    for path in (folder / "model_repository").glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), ModelConfig())
        for name in set(limits or {}) & set(config.parameters):
            config.parameters[name].string_value = str(limits[name])
        path.write_text(text_format.MessageToString(config))
    for model, text in (code or {}).items():
        path = folder / "model_repository" / model / "1/model.py"
        path.write_text(path.read_text() + text)
    manifest = Manifest.read(folder / FILE_NAME)
    files = tuple(FileRecord.of(folder, folder / record.path) for record in manifest.files)
    dataclasses.replace(manifest, files=files).write(folder / FILE_NAME)
    return folder
