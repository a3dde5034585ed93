"""OFA's own TSV: ``id, image id, captions, labels, base64 of the image``; captions are separated by ``&&``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .records import BadRecords, DataError, Record, caption_list

COLUMNS = 5
SEPARATOR = "&&"


def read_tsv(path: Path, bad: BadRecords) -> list[Record]:
    """Index a file's rows; its images stay on the disk until they are needed."""
    return list(stream_tsv(path, bad))


def stream_tsv(path: Path, bad: BadRecords) -> Iterator[Record]:
    """Give a file's rows one by one."""
    with path.open("rb") as file:
        start = 0
        for number, line in enumerate(file, 1):
            name = f"{path.name}:{number}"
            try:
                yield _record(path, name, start, line)
            except DataError as error:
                bad.add(name, str(error))
            start += len(line)


def _record(path: Path, name: str, start: int, line: bytes) -> Record:
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != COLUMNS:
        raise DataError(f"the row has {len(fields)} columns, not {COLUMNS}")
    if not fields[4]:
        raise DataError("the row has no image")
    captions = caption_list(fields[2].decode("utf-8", "surrogateescape").split(SEPARATOR))
    offset = start + sum(len(field) + 1 for field in fields[:4])
    # Shards may number their images each for itself: the length tells most of those apart.
    image = (fields[1], len(fields[4])) if fields[1] else None
    return Record(name, partial(_read_image, path, offset, len(fields[4])), captions, image)


def _read_image(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        encoded = file.read(length)
    try:
        # OFA's own files hold either base64 alphabet.
        return base64.b64decode(encoded, altchars=b"-_" if b"-" in encoded or b"_" in encoded else None, validate=True)
    except binascii.Error as error:
        raise DataError("the image is not base64") from error
