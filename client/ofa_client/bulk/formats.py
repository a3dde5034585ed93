"""The journal's records as CSV, Parquet or COCO results, written aside and moved into place when complete."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Callable

Records = Iterable["dict[str, Any]"]

_ROWS_A_GROUP = 10_000


def convert(
    records: Records, path: Path, file_format: str, before_it_is_moved: Callable[[Path], None] | None = None
) -> None:
    """Write records to ``path`` as ``csv``, ``parquet`` or ``coco``.

    Args:
        records: the records.
        path: what is replaced.
        file_format: what it becomes.
        before_it_is_moved: called with the complete file, while ``path`` is as it was.

    Raises:
        ImportError: Parquet without pyarrow.
        OSError: the file cannot be written.
    """
    aside = written_aside(path)
    aside.unlink(missing_ok=True)  # it could be a link to somebody's file
    _WRITERS[file_format](records, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    if before_it_is_moved:
        before_it_is_moved(aside)
    aside.replace(path)


def written_aside(path: Path) -> Path:
    """Tell where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.part")


def _csv(records: Records, path: Path) -> None:
    """One row a caption; ``rank`` counts from 1, the best."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "rank", "caption", "score"])
        for record in records:
            for rank, caption in enumerate(record["captions"], 1):
                writer.writerow([record["image"], rank, caption["text"], caption["score"]])


def _coco(records: Records, path: Path) -> None:
    """The COCO captioning results format: a list of ``{"image_id": …, "caption": …}``, the best caption each."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, record in enumerate(records):
            result = {"image_id": coco_image_id(record["image"]), "caption": record["captions"][0]["text"]}
            file.write((",\n" if i else "\n") + json.dumps(result))
        file.write("\n]\n")


def coco_image_id(key: str) -> int | str:
    """Take the number that ends a COCO file's name (``COCO_val2014_000000391895.jpg``), else the name itself."""
    stem = re.split(r"[/\\]", key)[-1].rsplit(".", 1)[0]
    number = re.search(r"\d+$", stem)
    return int(number[0]) if number else stem


def _parquet(records: Records, path: Path) -> None:
    """One row an image: ``image``, the best ``caption`` and ``score``, and all ``captions``."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'ofa-client[parquet]'") from error
    caption = pa.struct([("text", pa.string()), ("score", pa.float32())])
    fields = [
        ("image", pa.string()),
        ("caption", pa.string()),
        ("score", pa.float32()),
        ("captions", pa.list_(caption)),
    ]
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        rows = map(_row, records)
        while group := list(islice(rows, _ROWS_A_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    captions = [{"text": caption["text"], "score": caption["score"]} for caption in record["captions"]]
    image = record["image"].encode("utf-8", "backslashreplace").decode("utf-8")
    return {"image": image, "caption": captions[0]["text"], "score": captions[0]["score"], "captions": captions}


_WRITERS: dict[str, Callable[[Records, Path], None]] = {"csv": _csv, "parquet": _parquet, "coco": _coco}

FORMATS: Sequence[str] = ("jsonl", *_WRITERS)
"""What ``--format`` takes."""

_SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".json": "coco"}


def format_of(path: Path) -> str:
    """Tell the format by the file's suffix.

    Raises:
        ValueError: the suffix says nothing.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"the format of {path} is not clear: end it with {', '.join(_SUFFIXES)}, or give --format")
    return _SUFFIXES[path.suffix.lower()]
