"""A folder of images with a JSONL or CSV file of captions beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .columns import Columns, record_of
from .records import BadRecords, DataError, Record

NAMES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
"""What the file is called when only the folder is named; the second and fourth are Hugging Face's names."""


def table_of(folder: Path) -> Path:
    """Find a folder's table.

    Raises:
        DataError: if there is none.

    """
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"the folder {folder} has none of {', '.join(NAMES)}")


def stream_table(path: Path, images: Path | None, columns: Columns, bad: BadRecords) -> Iterator[Record]:
    """Give a table's rows one by one, each a record.

    Args:
        path: ``.jsonl`` with an object a line, or ``.csv`` with a header.
        images: the folder that file names start from; by default the table's own.
        columns: which columns hold the image and the caption.
        bad: takes the rows that cannot be used.

    Raises:
        DataError: if a CSV file lacks a column.

    """
    rows = _csv_rows(path, columns) if path.suffix == ".csv" else _jsonl_rows(path)
    for number, row in rows:
        name = f"{path.name}:{number}"
        try:
            if isinstance(row, DataError):
                raise row
            yield record_of(row, name, columns, images or path.parent)
        except DataError as error:
            bad.add(name, str(error))


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield number, row if isinstance(row, dict) else DataError("the line is not a JSON object")


def _csv_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        columns.check(reader.fieldnames or (), path.name)
        for row in reader:
            yield reader.line_num, row
