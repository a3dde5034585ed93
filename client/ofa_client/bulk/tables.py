"""Images in Parquet files: as bytes, as Hugging Face's ``{bytes, path}``, or as paths or URLs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from ofa_client.bulk.items import Columns, Item, Part, unreadable
from ofa_client.images import ImageSource

_ROWS_AT_A_TIME = 32


def row_groups(name: str, columns: Columns, sharded: bool) -> Iterator[Part]:
    """Give a table's row groups.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file lacks a column, or it is ``sharded`` and cannot be opened.
    """
    try:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'ofa-client[parquet]'") from error
    try:
        file = ParquetFile(name)
    except ArrowInvalid:
        yield Part(partial(_nothing, name, "this is no Parquet file"))
        return
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        if sharded and error.errno:  # other machines may count its row groups, and number what follows by them
            raise ValueError(f"{name}: {reason}; each shard has to be able to open every table") from error
        yield Part(partial(_nothing, name, reason, error.errno))
        return
    wanted = [columns.image] if columns.key is None else [columns.image, columns.key]
    known = file.schema_arrow.names
    missing = [column for column in wanted if column not in known]
    if missing:
        raise ValueError(f"{name} has no column {missing[0]!r}, only {', '.join(known)}")
    first = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        yield Part(partial(_rows, name, file, group, range(first, first + size), wanted), size)
        first += size


def _rows(name: str, file: Any, group: int, rows: range, wanted: list[str]) -> Iterator[Item]:
    row = rows.start
    try:
        for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=wanted):
            images = batch.column(wanted[0])
            keys = batch.column(wanted[1]) if len(wanted) == 2 else None
            for i in range(batch.num_rows):
                key = None if keys is None else keys[i].as_py()
                yield Item(f"{name}/{row}" if key is None else str(key), partial(_image, images, i))
                row += 1
    except Exception as error:  # damage shows in many ways inside pyarrow
        reason = " ".join(str(error).split())
        yield unreadable(
            f"{name}/{row}", f"the table is damaged: rows {row} to {rows.stop - 1} cannot be read ({reason})"
        )


def _image(column: Any, row: int) -> ImageSource:
    try:
        value = column[row].as_py()
    except ValueError as error:  # a path that is no text
        raise OSError(None, "the row is damaged") from error
    value = image_of(value)
    if not isinstance(value, (bytes, str)):
        raise OSError(None, "the row has no image")
    return value


def image_of(value: Any) -> Any:
    """Take an image out of Hugging Face's ``{bytes, path}``; other values are it, or None where there is none."""
    return value.get("bytes") or value.get("path") if isinstance(value, dict) else value


def _nothing(name: str, reason: str, number: int | None = None) -> Iterator[Item]:
    yield unreadable(name, reason, number)
