"""A folder of images with a JSONL or CSV file of captions beside them."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .columns import Columns, record_of
from .records import BadRecords, DataError, Record, is_utf8

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
                except (ValueError, RecursionError):
                    row = None
                yield number, row if isinstance(row, dict) else DataError("the line is not a JSON object")


def _csv_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    # What is not UTF-8 is kept as such: a file's name may be, and a caption that is not is refused as any other.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = _split(file)
        _, header = next(rows, (1, []))
        if isinstance(header, DataError):
            raise DataError(f"{path}, line 1: {header}")
        if not is_utf8("".join(header)):
            raise DataError(f"{path} is not UTF-8")
        columns.check(header, str(path))
        for number, fields in rows:
            if isinstance(fields, DataError):
                yield number, fields
            elif any(fields[len(header) :]):
                error = f"the row has {len(fields)} fields, the header {len(header)}: one with a comma wants quotes"
                yield number, DataError(error)
            elif fields:
                yield number, dict(zip(header, fields, strict=False))


def _split(lines: Iterable[str]) -> Iterator[tuple[int, list[str] | DataError]]:
    """Give a CSV file's rows with the number of the line where each begins.

    After a line that is at fault the next is a row again: a quote that is not closed would take all that follow it.
    """
    numbered, again = enumerate(lines, 1), deque[tuple[int, str]]()
    while True:
        taken: list[tuple[int, str]] = []
        # It asks for as many lines as the row has.
        following = (taken.append(line) or line[1] for line in _first(again, numbered))
        try:
            fields: list[str] | DataError = next(csv.reader(following, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            is_long = "limit" in str(error) and len(taken) == 1  # of more lines a quote was left open
            fields = DataError("a field is too long" if is_long else "a quote is not closed, or not doubled in a field")
            again.extendleft(reversed(taken[1:]))
        yield taken[0][0], fields


def _first(again: deque[Any], rest: Iterator[Any]) -> Iterator[Any]:
    """Give what is to be read again, then the rest."""
    while again:
        yield again.popleft()
    yield from rest
