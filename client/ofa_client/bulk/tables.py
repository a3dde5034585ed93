"""Images in Parquet files: as bytes, as Hugging Face's ``{bytes, path}``, or as paths or URLs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable

from ofa_client.bulk.items import Columns, Item, unreadable
from ofa_client.images import ImageSource

_ROWS_AT_A_TIME = 32


def row_groups(name: str, columns: Columns) -> Iterator[Callable[[], Iterator[Item]]]:
    """Give a function for each row group that reads its images.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file lacks a column.
    """
    try:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'ofa-client[parquet]'") from error
    try:
        file = ParquetFile(name)
    except ArrowInvalid:
        yield partial(_nothing, name, "this is no Parquet file")
        return
    except OSError as error:
        yield partial(_nothing, name, os.strerror(error.errno or errno.EIO))
        return
    wanted = [columns.image] if columns.key is None else [columns.image, columns.key]
    known = file.schema_arrow.names
    missing = [column for column in wanted if column not in known]
    if missing:
        raise ValueError(f"{name} has no column {missing[0]!r}, only {', '.join(known)}")
    first = 0
    for group in range(file.num_row_groups):
        yield partial(_rows, name, file, group, first, wanted)
        first += file.metadata.row_group(group).num_rows


def _rows(name: str, file: Any, group: int, first: int, wanted: list[str]) -> Iterator[Item]:
    row = first
    for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=wanted):
        images = batch.column(wanted[0])
        keys = batch.column(wanted[1]) if len(wanted) == 2 else None
        for i in range(batch.num_rows):
            key = f"{name}/{row}" if keys is None else str(keys[i].as_py())
            yield Item(key, partial(_image, images, i))
            row += 1


def _image(column: Any, row: int) -> ImageSource:
    value = column[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, (bytes, str)):
        raise OSError(None, "the row has no image")
    return value


def _nothing(name: str, reason: str) -> Iterator[Item]:
    yield unreadable(name, reason)
