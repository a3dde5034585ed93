"""Copies of a built checkpoint that are served otherwise: what a part of the design is worth shows without it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from google.protobuf import text_format
from ofa_serving.contract import Names
from ofa_serving.manifest import FILE_NAME, FileRecord, Manifest
from tritonclient.grpc.model_config_pb2 import ModelConfig


def without_dynamic_batching(repository: Path, names: Names) -> None:
    """Each encoder run has one request's images."""
    _edit(repository / names.encoder, lambda config: config.ClearField("dynamic_batching"))


def without_inflight_batching(repository: Path, names: Names) -> None:
    """The beam search takes one caption at a time, from its first token to its last."""

    def one_caption(config: ModelConfig) -> None:
        config.parameters["max_captions"].string_value = "1"

    _edit(repository / names.beam_search, one_caption)


def variant(artifact: Path, folder: Path, *changes: Callable[[Path, Names], None]) -> Path:
    """A copy of an artifact in ``folder``, changed, with a manifest that fits; its large files are shared."""
    copy = folder / artifact.name
    shutil.copytree(artifact, copy, copy_function=_share)
    for change in changes:
        change(copy / "model_repository", Names(artifact.name))
    manifest = Manifest.read(copy / FILE_NAME)
    (copy / FILE_NAME).unlink()
    dataclasses.replace(manifest, files=FileRecord.all_of(copy)).write(copy / FILE_NAME)
    return copy


def _edit(model: Path, change: Callable[[ModelConfig], None]) -> None:
    path = model / "config.pbtxt"
    config = text_format.Parse(path.read_text(), ModelConfig())
    change(config)
    path.unlink()  # the copy, not what it shares
    path.write_text(text_format.MessageToString(config))


def _share(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system
        shutil.copy2(source, destination)
