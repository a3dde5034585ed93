"""One entry for every kind of checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from .directory import read_directory
from .fairseq import read_fairseq
from .hub import fetch, is_hub_name
from .types import Checkpoint, CheckpointError

log = logging.getLogger(__name__)


def load_checkpoint(source: str | Path, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        source: a ModelScope or Hugging Face directory, a fairseq ``.pt`` file or a directory that holds one, or a
            name on a hub (``damo/ofa_image-caption_coco_distilled_en``, ``OFA-Sys/ofa-tiny``).
        sha256: what the weights must hash to, in hexadecimal digits; others are not read.

    Raises:
        CheckpointError: in one sentence, naming what is missing, damaged or not supported.

    """
    path = Path(source)
    if path.is_file():
        return read_fairseq(path, sha256)
    if not path.is_dir():
        if not is_hub_name(str(source)):
            raise CheckpointError(f"there is no checkpoint {source}: neither a directory, a file nor a name on a hub")
        path = fetch(str(source))
        log.info("%s lies in %s", source, path)
    return _read_directory(path, sha256)


def _read_directory(directory: Path, sha256: str | None) -> Checkpoint:
    if (directory / "recipe.json").is_file() and (directory / "last").is_dir():
        raise CheckpointError(f"{directory} is a training run's folder; its checkpoints are best and last in it")
    files = sorted(directory.glob("*.pt"))
    if (directory / "config.json").is_file() or not files:
        return read_directory(directory, sha256)
    if len(files) > 1:
        raise CheckpointError(f"the directory holds {len(files)} .pt files; name the one to read")
    return read_fairseq(files[0], sha256)
