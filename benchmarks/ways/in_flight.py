"""The product: the decoder's step in the search's own process, captions joining and leaving at any step."""

from __future__ import annotations

from pathlib import Path

from ..contenders import Served

NAME = "this project: step in process, in-flight batches"


def way(artifact: Path, work: Path, concurrency: int) -> Served:
    """The contender; ``work`` is not needed."""
    del work
    return Served(NAME, artifact.name, artifact.parent, concurrency)
