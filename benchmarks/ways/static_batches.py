"""Static batches: captions wait until every one of the batch before them is done."""

from __future__ import annotations

from pathlib import Path

from ofa_serving.contract import Names

from loadtest.variants import variant

from ..contenders import Served

NAME = "static batches"
MODEL = Path(__file__).parent / "models" / "static_batches.py"


def way(artifact: Path, work: Path, concurrency: int) -> Served:
    """The contender, over a copy of the artifact whose search has another ``model.py``."""
    variant(artifact, work, replace_search)
    return Served(NAME, artifact.name, work, concurrency)


def replace_search(repository: Path, names: Names) -> None:
    """A change of a variant."""
    model = repository / names.beam_search / "1" / "model.py"
    model.unlink()  # the copy, not what it shares
    model.write_bytes(MODEL.read_bytes())
