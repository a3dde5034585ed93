"""A folder that is there whole or not at all, and takes an older one's place only when it is whole."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a new folder to fill, and put it where ``final`` is once it is filled.

    Whatever ends the filling, the old folder stays and the new one is removed. What a process that was killed left is
    removed, or put back, by the next one with the same ``final``. Where several fill at a time, the last one counts.

    Args:
        final: a folder, a link to one, or nothing yet; the folder above it exists.

    Raises:
        OSError: the folder cannot be made or moved; the old one is then still in its place.
    """
    final = final.resolve()  # a link to another disk stays one
    if final.exists() and not final.is_dir():
        raise NotADirectoryError(f"{final} is no folder")
    with ExitStack() as stack:
        with _locked(final.parent):
            _sweep(final)
            partial = Path(tempfile.mkdtemp(prefix=f"{_building(final)}-", dir=final.parent))
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            stack.enter_context(_locked(partial))  # says that it is being filled
        yield partial
        with _locked(final.parent):
            before = _exchange(partial, final)
    shutil.rmtree(before, ignore_errors=True)
    if before.exists():
        log.warning("%s, which was there before, could not be removed", before)


def _building(final: Path) -> str:
    return f".{final.name}.building"


def _replaced(final: Path) -> str:
    return f".{final.name}.replaced"


def _exchange(partial: Path, final: Path) -> Path:
    """Put one folder in another's place; gives where that one, if there was any, is now."""
    partial.chmod(0o755)
    before = partial.with_name(partial.name.replace(_building(final), _replaced(final)))
    try:
        if final.exists():
            final.rename(before)
        partial.rename(final)
    except BaseException:
        if not final.exists() and before.exists():
            before.rename(final)
        raise
    return before


def _sweep(final: Path) -> None:
    """Take up what processes that were killed have left of ``final``. The lock of the folder above is held."""
    for before in sorted(final.parent.glob(f"{glob.escape(_replaced(final))}-*")):
        if final.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(final)
    for partial in final.parent.glob(f"{glob.escape(_building(final))}-*"):
        with suppress(OSError), _locked(partial, fcntl.LOCK_NB):  # an OSError says that somebody still fills it
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """Hold a folder's lock, which a process lets go of however it ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)
