"""One captioned image, and the account of those that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .captions import normalise

log = logging.getLogger(__name__)

DEFAULT_MAX_BAD = 100
_NAMED = 5
"""Bad records that a message names before it only counts."""


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence that names the file, row or column."""


@dataclass(frozen=True)
class Record:
    """One image with its captions.

    Attributes:
        name: what messages and reports call it: a file's name, an id, a row's number.
        read: gives the image file's bytes; an OSError or ValueError says why it cannot.
        captions: one or more, as they were written.
        image: the same for records of one image; None where that is not known.
    """

    name: str
    read: Callable[[], bytes]
    captions: tuple[str, ...]
    image: Hashable = None


def merged(records: Iterable[Record]) -> list[Record]:
    """Make one record of those of one image, with all their captions, in the place of the first."""
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        found.setdefault(object() if record.image is None else record.image, []).append(record)
    return [
        replace(first, captions=sum((other.captions for other in others), first.captions)) if others else first
        for first, *others in found.values()
    ]


class BadRecords:
    """Counts and names the records that were skipped, and ends a run in which there are too many."""

    def __init__(self, limit: int = DEFAULT_MAX_BAD) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, name: str, reason: str) -> None:
        """Account for one record; a record that is met again, in the next epoch, counts once.

        Raises:
            DataError: when there are more than the limit.

        """
        if name in self.reasons:
            return
        self.reasons[name] = reason
        log.warning("skipped %s: %s", name, reason)
        if len(self.reasons) > self.limit:
            raise DataError(f"more than {self.limit} records are bad: {self.summary()}")

    def summary(self) -> str:
        """Name the first of them, and count the rest."""
        named = [f"{name} ({reason})" for name, reason in list(self.reasons.items())[:_NAMED]]
        more = f" and {len(self) - _NAMED} more" if len(self) > _NAMED else ""
        return "; ".join(named) + more


def file_reader(path: Path) -> Callable[[], bytes]:
    """Read an image from a file, when it is needed."""
    return partial(_read_file, path)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("the image file is missing") from error
    except OSError as error:
        raise DataError(f"the image file cannot be read ({error.strerror})") from error
    except ValueError as error:  # the name has a null character, or an unpaired surrogate
        raise DataError("no file can have the image's name") from error


def is_utf8(text: str) -> bool:
    """Tell whether a text is free of halves of characters, which JSON can write, and of bytes of other encodings."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def caption_list(value: object) -> tuple[str, ...]:
    """Read a field of captions: one text, or several in a list.

    Raises:
        DataError: if there is none of which anything is taught, or something else than texts.

    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise DataError("the caption is not a text")
    if not is_utf8("".join(texts)):
        raise DataError("the caption is not UTF-8")
    captions = tuple(text.strip() for text in texts if normalise(text))
    if not captions:
        raise DataError("the caption is empty")
    return captions
