"""An append-only file of JSON lines that is its own record of what is done.

A line is written whole, in one call, before its image counts as done. A kill leaves at most one line cut short, which
is removed when the file is opened again; a power failure may take what was written within the last second, which is
then done again. What all records depend on is in :mod:`~ofa_client.bulk.notes`, since the records may be the output.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from ofa_client.bulk.keys import KeySet

_SYNC_SECONDS = 1.0
_BEGINNING = b'{"image": "'
_LONGEST = 1 << 20  # no record comes near it


class JournalError(Exception):
    """A file that is not this program's, or that another process writes to; the message says which."""


class Journal:
    """Records of images, one a line, each with its key under ``image``. One process at a time may have it open."""

    def __init__(self, path: Path, done: KeySet, holds: str = "captions") -> None:
        """Open or make the file, and add the keys of its records to ``done``.

        Args:
            path: the file.
            done: takes the keys.
            holds: what its records tell of the images, ``captions`` or ``failures``.

        Raises:
            JournalError: another process has it open, it holds other lines than records, or is a device or a pipe.
            OSError: it cannot be written.
        """
        self._path = path
        self._holds = holds
        self.records = 0
        if path.exists() and not path.is_file():
            raise JournalError(f"{path} is no regular file, which a later run could go on with")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover(done)
            os.fsync(self._file)
        except BlockingIOError as error:
            os.close(self._file)
            raise JournalError(f"another process is writing to {path}") from error
        except BaseException:
            os.close(self._file)
            raise
        sync_folder(path)
        self._synced = time.monotonic()

    def _recover(self, done: KeySet) -> None:
        """Take in the records, and cut off what a kill or a power failure left behind them."""
        end = 0
        damaged_at = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                key = _key(line, _SHAPES[self._holds])
                if key is None:
                    damaged_at = damaged_at or number
                elif damaged_at:
                    raise JournalError(f"line {damaged_at} of {self._path} is no record of an image")
                else:
                    done.add(key)
                    self.records += 1
                    end += len(line)
        if damaged_at == 1 and not self._is_a_cut_record():
            raise JournalError(f"{self._path} holds something else than records of images and their {self._holds}")
        os.ftruncate(self._file, end)

    def _is_a_cut_record(self) -> bool:
        """Tell whether a file without a record may be a first one that was cut short, or never reached the disk."""
        with self._path.open("rb") as file:
            start = file.read(_LONGEST)
        if len(start) == _LONGEST:
            return False
        if start[:1] in (b"", b"\0") and not start.strip(b"\0\n"):
            return True
        if b"\n" in start or not _BEGINNING.startswith(start[: len(_BEGINNING)]):
            return False
        try:
            json.loads(start)
        except ValueError:
            return True
        return _key(start + b"\n", _SHAPES[self._holds]) is not None  # but for its end, it is whole

    def append(self, record: dict[str, Any]) -> None:
        """Write one record.

        Raises:
            OSError: the disk is full, or gone.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):  # only where it takes nothing more does the system say why
                written += os.write(self._file, line[written:])
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # what was written is cut off when the file is opened again
            raise OSError(error.errno, f"cannot be written on: {error.strerror}", str(self._path)) from error
        self.records += 1
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def clear(self) -> None:
        """Forget all records."""
        os.ftruncate(self._file, 0)
        self.records = 0

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a journal; a line that was cut short ends it."""
    with path.open("rb") as lines:
        for line in lines:
            if _key(line) is None:
                return
            yield json.loads(line)


def _key(line: bytes, shape: Callable[[dict[str, Any]], bool] | None = None) -> str | None:
    """Read a record's key; None for what is no record, or has another shape."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
        key = record["image"]
    except (ValueError, TypeError, LookupError):
        return None
    return key if isinstance(key, str) and (shape is None or shape(record)) else None


def _has_captions(record: dict[str, Any]) -> bool:
    captions = record.get("captions")
    return isinstance(captions, list) and all(isinstance(one, dict) and "text" in one for one in captions)


def _has_failed(record: dict[str, Any]) -> bool:
    return isinstance(record.get("code"), str)


_SHAPES: dict[str, Callable[[dict[str, Any]], bool]] = {"captions": _has_captions, "failures": _has_failed}


def sync_folder(path: Path) -> None:
    """Make a new file's name last as its contents do."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
