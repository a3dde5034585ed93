"""One entry for every kind of data."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .coco import read_coco
from .columns import Columns, records_of, stream_rows
from .records import DEFAULT_MAX_BAD, BadRecords, DataError, Record, merged
from .tables import stream_table, table_of
from .tsv import read_tsv, stream_tsv

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class CaptionData:
    """Records that are all known and can be shuffled."""

    records: Sequence[Record]
    bad: BadRecords

    def __len__(self) -> int:
        return len(self.records)

    def hash_into(self, digest: hashlib._Hash, records: int | None = None) -> None:
        """Add what tells these records from others: their names and captions, in order; of the first so many."""
        for record in self.records[:records]:
            digest.update(json.dumps((record.name, record.captions)).encode())


@dataclass(frozen=True)
class CaptionStream:
    """Records that are read in order, over and over; nothing is known of those to come."""

    open: Callable[[], Iterator[Record]]
    bad: BadRecords


@dataclass(frozen=True)
class DataOptions:
    """How both data sources are read, see :func:`open_data`."""

    images: str | Path | None = None
    columns: Mapping[str, str] | None = None
    max_bad: int = DEFAULT_MAX_BAD
    streaming: bool = False  # the training data only
    evaluation_images: int | None = None  # the first so many of the evaluation data


def open_data(
    source: str | Path | Rows,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    streaming: bool = False,
    max_bad: int = DEFAULT_MAX_BAD,
) -> CaptionData | CaptionStream:
    """Open captioned images.

    Several rows of one image are one record with all their captions, in the place of the first, where the rows name
    the image's file (or id, in OFA's ``.tsv``) and are not streamed.

    Args:
        source: a COCO or Karpathy ``.json``, OFA's ``.tsv``, a ``.jsonl`` or ``.csv``, a folder that holds one of the
            last two, a pattern such as ``train-*.tsv`` for shards, or an object with rows: a ``datasets`` or
            ``MsDataset`` object, a list of mappings.
        images: the folder that file names start from; by default that of the file which names them.
        split: of a Karpathy file: ``train`` (with ``restval``), ``val`` or ``test``. ``file.json:train`` says the same.
        columns: which columns hold the ``image`` and the ``caption``, where the names are others than usual.
        streaming: read in order and never all at once.
        max_bad: how many records may be bad before it is an error.

    Raises:
        DataError: in one sentence, if there is nothing that can be used.

    """
    bad, names = BadRecords(max_bad), Columns.of(columns)
    if isinstance(source, str) and ".json:" in source and split is None:
        source, _, split = source.rpartition(":")
    folder = None if images is None else Path(images)
    if not isinstance(source, str | Path):
        return _open_rows(source, folder, names, streaming, bad)
    paths = _paths(str(source))
    if split and paths[0].suffix != ".json":
        raise DataError(f"a split is taken of Karpathy's JSON file; {paths[0]} is none")
    for path in paths:
        _check(path, streaming)
    if streaming:
        return CaptionStream(lambda: _stream(paths, folder, names, bad), bad)
    records: list[Record] = []
    for path in paths:
        records += _read(path, folder, split, names, bad)
    return _checked(CaptionData(merged(records), bad), str(source))


def _open_rows(
    source: Rows, images: Path | None, names: Columns, streaming: bool, bad: BadRecords
) -> CaptionData | CaptionStream:
    if streaming or not hasattr(source, "__len__"):
        return CaptionStream(lambda: stream_rows(source, images, names, bad), bad)
    return _checked(CaptionData(merged(records_of(source, images, names, bad)), bad), "the data set")


def _paths(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return [table_of(path)]
    if path.is_file():
        return [path]
    found = sorted(Path(name) for name in glob.glob(source))  # noqa: PTH207  (a pattern may be absolute)
    if not found:
        raise DataError(f"there is no data at {source}")
    return found


def _read(path: Path, images: Path | None, split: str | None, names: Columns, bad: BadRecords) -> list[Record]:
    if path.suffix == ".json":
        return read_coco(path, images, split, bad)
    if path.suffix == ".tsv":
        return read_tsv(path, bad)
    return list(stream_table(path, images, names, bad))


def _stream(paths: Sequence[Path], images: Path | None, names: Columns, bad: BadRecords) -> Iterator[Record]:
    for path in paths:
        if path.suffix == ".tsv":
            yield from stream_tsv(path, bad)
        else:
            yield from stream_table(path, images, names, bad)


def _check(path: Path, streaming: bool) -> None:
    if path.suffix not in (".json", ".jsonl", ".csv", ".tsv"):
        raise DataError(f"{path} is not .json, .jsonl, .csv or .tsv")
    if streaming and path.suffix == ".json":
        raise DataError(f"{path} is one object and cannot be streamed; a .tsv or .jsonl can")


def _checked(data: CaptionData, source: str) -> CaptionData:
    if not data.records:
        why = f": {data.bad.summary()}" if len(data.bad) else ""
        raise DataError(f"{source} has no record that can be used{why}")
    return data
