"""Rows of named columns to records: a table's, a ``datasets`` or ``MsDataset`` object's, any mappings'."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .records import BadRecords, DataError, Record, caption_list, file_reader

_IMAGES = ("image", "file_name", "filename", "image_path", "path")
_CAPTIONS = ("caption", "captions", "text", "sentences")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None finds it by the names in use."""

    image: str | None = None
    caption: str | None = None

    @classmethod
    def of(cls, column_map: Mapping[str, str] | None) -> Columns:
        """Read a map of what is meant to the column's name, as ``{"image": "picture", "caption": "text"}``.

        ModelScope's own map says ``text`` for the caption; both are taken.

        Raises:
            DataError: for anything but these keys.

        """
        names = dict(column_map or {})
        caption = names.pop("caption", names.pop("text", None))
        image = names.pop("image", None)
        names.pop("text", None)
        if names:
            raise DataError(f"a column map has image and caption, not {min(names)}")
        return cls(image, caption)

    def check(self, present: Iterable[str], where: str) -> None:
        """Check that the columns are among those ``present``.

        Raises:
            DataError: naming the one that is missing.

        """
        present = list(present)
        for what, wanted in (("image", self.image), ("caption", self.caption)):
            usual = _IMAGES if what == "image" else _CAPTIONS
            if wanted is not None and wanted not in present:
                raise DataError(f"{where} has no column {wanted}; it has {', '.join(present)}")
            if wanted is None and not set(usual) & set(present):
                raise DataError(f"{where} has no column {' or '.join(usual)}; name the one with the {what}")

    def pick(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        """Give a row's image and caption."""
        return _value(row, self.image, _IMAGES, "image"), _value(row, self.caption, _CAPTIONS, "caption")


def records_of(
    rows: Iterable[Mapping[str, Any]], folder: Path | None, columns: Columns, bad: BadRecords
) -> Sequence[Record]:
    """Give the rows of a data set object as records; its rows are read when they are needed.

    Args:
        rows: with a length and whole-number indices, as a ``datasets.Dataset`` or an ``MsDataset`` has.
        folder: where images that are named by a file start from.
        columns: which hold the image and the caption.
        bad: takes the rows that cannot be used.

    """
    rows = _of_files(rows)
    present = getattr(rows, "column_names", None)
    if isinstance(present, Iterable):
        columns.check(present, "the data set")
    records = []
    captions = _column(rows, columns.caption or next((name for name in _CAPTIONS if name in (present or ())), None))
    image = columns.image or next((name for name in _IMAGES if name in (present or ())), None)
    are_files = getattr((getattr(rows, "features", None) or {}).get(image), "dtype", None) == "string"
    files = _column(rows, image) if are_files else None
    for number in range(len(rows)):  # type: ignore[arg-type]
        name = f"row {number}"
        try:
            if captions is None:
                image, texts = columns.pick(rows[number])
            else:
                image, texts = files[number] if files else None, captions[number]
            read = partial(_read_row, rows, number, folder, columns)
            records.append(Record(name, read, caption_list(texts), _file_of(image, folder)))
        except DataError as error:
            bad.add(name, str(error))
    return records


def stream_rows(
    rows: Iterable[Mapping[str, Any]], folder: Path | None, columns: Columns, bad: BadRecords
) -> Iterator[Record]:
    """Give the rows of a streaming data set as records, one by one; each process and worker gets all of them."""
    for number, row in enumerate(_all(_of_files(rows))):
        name = f"row {number}"
        try:
            yield record_of(row, name, columns, folder)
        except DataError as error:
            bad.add(name, str(error))


def record_of(row: Mapping[str, Any], name: str, columns: Columns, folder: Path | None) -> Record:
    """Give one row as a record.

    Raises:
        DataError: if it lacks a column, or what it holds is no image or caption.

    """
    image, caption = columns.pick(row)
    captions = caption_list(caption)
    if isinstance(image, str) and image.strip():
        path = Path(image) if folder is None else folder / image
        return Record(image, file_reader(path), captions, _file_of(image, folder))
    return Record(name, image_reader(image), captions)


def image_reader(value: object) -> Callable[[], bytes]:
    """Tell how to read an image that is a path, bytes, a Pillow picture, an array, or ``datasets``' own mapping.

    Raises:
        DataError: if it is none of these.

    """
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path) and str(value):
        return file_reader(Path(value))
    if isinstance(value, bytes):
        return partial(bytes, value)
    if isinstance(value, Image.Image):
        return partial(_encode, value)
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[2] == 3 and value.dtype == np.uint8:
        return partial(_encode, Image.fromarray(value))
    raise DataError(f"the image is of type {type(value).__name__}, not a path, bytes or a picture")


def _of_files(rows: Any) -> Any:
    """Have a ``datasets`` or ``MsDataset`` object give its pictures' files, for one reader of all data sets to decode.

    It would decode them itself: all of them for their captions' sake, and one that is damaged ends the iteration.
    """
    if getattr(rows, "target", None) is None:
        rows = getattr(rows, "ds_instance", rows)  # what an MsDataset holds
    for name, feature in (getattr(rows, "features", None) or {}).items():
        if getattr(feature, "decode", False) is True and type(feature).__name__ == "Image":
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def _all(rows: Any) -> Iterator[Mapping[str, Any]]:
    """Give every row, in a loader's worker too.

    Asked row by row there, a stream of ``datasets`` gives each worker a part of its own; our batches are shared out by
    number.
    """
    if not hasattr(rows, "iter"):
        yield from rows
        return
    for batch in rows.iter(batch_size=1):
        yield {name: values[0] for name, values in batch.items()}


def _value(row: Mapping[str, Any], wanted: str | None, usual: Sequence[str], what: str) -> Any:
    for name in (wanted,) if wanted else usual:
        if row.get(name) is not None:
            return row[name]
    raise DataError(f"the row has no {wanted or what}")


def _column(rows: Any, name: str | None) -> Sequence[Any] | None:
    """Take the captions without decoding a picture, where the object can give one column alone."""
    select = getattr(rows, "select_columns", None)
    if name is None or select is None:
        return None
    return list(select([name])[:][name])


def _file_of(image: object, folder: Path | None) -> str | None:
    """Give the file that an image is named by, the same however it is written."""
    return os.path.normpath(Path(folder or "", image)) if isinstance(image, str | Path) and str(image).strip() else None


def _read_row(rows: Any, number: int, folder: Path | None, columns: Columns) -> bytes:
    return record_of(rows[number], f"row {number}", columns, folder).read()


def _encode(picture: Image.Image) -> bytes:
    """Write a decoded picture without loss; colours that PNG lacks become RGB, as they would when it is read."""
    exif, file = picture.getexif(), io.BytesIO()
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")
    picture.save(file, "PNG", compress_level=1, exif=exif)
    return file.getvalue()
