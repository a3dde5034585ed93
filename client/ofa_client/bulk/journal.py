"""An append-only file of JSON lines that is its own record of what is done.

A line is written whole, in one call, before its image counts as done. A kill leaves at most one line cut short, which
is removed when the file is opened again; a power failure may take what was written within the last second, which is
then done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ofa_client.bulk.keys import KeySet

_SYNC_SECONDS = 1.0
_BEGINNING = b'{"image": "'


class JournalError(Exception):
    """A file that is not this program's, or that another process writes to; the message says which."""


class Journal:
    """Records of images, one a line, each with its key under ``image``. One process at a time may have it open."""

    def __init__(self, path: Path, done: KeySet) -> None:
        """Open or make the file, and add the keys of its records to ``done``.

        Raises:
            JournalError: another process has it open, it holds other lines than records, or is a device or a pipe.
            OSError: it cannot be written.
        """
        self._path = path
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
        _sync_folder(path)
        self._synced = time.monotonic()

    def _recover(self, done: KeySet) -> None:
        """Take in the records, and cut off what a kill or a power failure left behind them."""
        end = 0
        damaged_at = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                key = _key(line)
                if key is None:
                    damaged_at = damaged_at or number
                elif damaged_at:
                    raise JournalError(f"line {damaged_at} of {self._path} is no record of an image")
                else:
                    done.add(key)
                    self.records += 1
                    end += len(line)
        if damaged_at == 1 and not self._is_a_cut_record():
            raise JournalError(f"{self._path} holds something else than records of images")
        os.ftruncate(self._file, end)

    def _is_a_cut_record(self) -> bool:
        """Tell whether a file without a record may be a first one that was cut short, or never reached the disk."""
        with self._path.open("rb") as file:
            start = file.read(len(_BEGINNING))
        return _BEGINNING.startswith(start) or not start.strip(b"\0")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record.

        Raises:
            OSError: the disk is full, or gone.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        written = os.write(self._file, line)
        if written != len(line):  # the disk is full; what was written is cut off when the file is opened again
            raise OSError(f"{self._path} cannot be written on")
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


def _key(line: bytes) -> str | None:
    """Read a record's key; None for what is no record."""
    try:
        key = json.loads(line)["image"] if line.endswith(b"\n") else None
    except (ValueError, TypeError, LookupError):
        return None
    return key if isinstance(key, str) else None


def _sync_folder(path: Path) -> None:
    """Make a new file's name last as its contents do."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
