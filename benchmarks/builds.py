"""Artifacts that benchmarks measure: kept from run to run, and built again when what they are made of has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ofa_build
import ofa_serving
from ofa_build import repository
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.repository import Serving

_MADE_BY = {
    Path(ofa_build.__file__).parent: ("*.py", "*.jpg", "checkpoint/*.py", "commands/*.py", "export/*.py", "model/*.py"),
    Path(ofa_serving.__file__).parent: ("*.py", "engines/*.py"),
    repository.SOURCES: ("*/config.pbtxt", "*/1/model.py"),
}
SOURCES = [file for folder, patterns in _MADE_BY.items() for pattern in patterns for file in folder.glob(pattern)]
"""What an artifact is made by, beside its checkpoint: the Makefile has the same."""


def built(name: str, artifacts: Path, checkpoint: Path, serving: Serving, pictures: Sequence[bytes]) -> Path:
    """The model repository of an artifact.

    Args:
        name: of the public model, and of its folder in ``artifacts``.
        artifacts: where artifacts are kept.
        checkpoint: its folder.
        serving: device, engine and precision.
        pictures: for int8.
    """
    manifest = artifacts / name / "manifest.json"
    if not is_newer(manifest, [*checkpoint.iterdir(), *SOURCES]):
        build_artifact(load_checkpoint(str(checkpoint)), checkpoint.name, name, artifacts, serving, pictures)
    return manifest.with_name("model_repository")


def is_newer(made: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is there and none of its sources has been written since, as make sees it."""
    return made.exists() and all(source.stat().st_mtime <= made.stat().st_mtime for source in sources)
