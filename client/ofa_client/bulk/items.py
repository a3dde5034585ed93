"""The images of files, folders, glob patterns, tar archives, Parquet files and lists, one after another."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Callable

from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.shard import Shard
from ofa_client.images import ImageSource, is_url

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""What is taken as an image inside folders and archives; a file that is named itself may have any."""

UNSUPPORTED_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".tif", ".tiff")
"""Images that the server does not read: taken as well, so that they are reported instead of passed over."""

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TAKEN_SUFFIXES = (*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES, *_TAR_SUFFIXES, ".parquet")
"""What is taken for an input below a folder that is given as one."""


@dataclass(frozen=True)
class Item:
    """One image, or one place that should have had images."""

    key: str
    """What the image is called in the output: path, URL, ``archive/member`` or ``table/row``."""

    load: Callable[[], ImageSource]
    """Gives the image, or raises ``OSError`` or ``ImageTooLargeError``. To be called before the next item is taken."""


@dataclass(frozen=True)
class Part:
    """What one shard reads as a whole: an archive, or a row group of a table."""

    read: Callable[[], Iterator[Item]]
    size: int | None = None
    """How many images it has, where that is known without reading them."""

    counted_by_reading: bool = True
    """Whether that costs little, where the size is not known."""


def unreadable(key: str, reason: str, number: int | None = None) -> Item:
    """Make an item that fails: a place that should have had images; the number is the system's for the reason."""

    def load() -> ImageSource:
        raise OSError(number, reason)

    return Item(key, load)


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet file hold the image, and its key if it has one."""

    image: str = "image"
    key: str | None = None


@dataclass
class Inputs:
    """All images that a command line names, or one shard of them; each iteration starts anew.

    Raises (while iterating):
        ImportError: a Parquet file without pyarrow.
        ValueError: a Parquet file without the columns, or one among several shards that cannot be opened here.
    """

    names: Sequence[str]
    shard: Shard = field(default_factory=Shard)
    columns: Columns = field(default_factory=Columns)

    without_images: dict[str, None] = field(default_factory=dict, init=False)
    """The names, as they were given, of folders and lists in which an iteration found nothing; a set in order."""

    def __iter__(self) -> Iterator[Item]:
        for taken in self._taken():
            if isinstance(taken, Item):
                yield taken
            else:
                yield from taken.read()

    def count(self) -> int | None:
        """Count the images, if no archive has to be decompressed for that; else None.

        Of one name, they count once, but for those of tables, which are not read for it.
        """
        keys = KeySet()
        total = 0
        for taken in self._taken():
            if isinstance(taken, Item):
                total += keys.add(taken.key)
            elif taken.size is not None:
                total += taken.size
            elif taken.counted_by_reading:
                total += sum(keys.add(item.key) for item in taken.read())
            else:
                return None
        return total

    def _taken(self) -> Iterator[Item | Part]:
        """Give what is in this shard."""
        parts = 0
        for item in self._named():
            if not isinstance(item, _Archive):
                if self.shard.takes(item.key):
                    yield item
                continue
            for part in item.parts(self.columns, self.shard.count > 1):
                if self.shard.takes_number(parts):
                    yield part
                parts += 1

    @property
    def come_once(self) -> bool:
        """Whether images are named on standard input or a pipe: they may be some time in coming, and come once."""
        return any(name == "-" or _is_pipe(name) for name in self.names)

    def _named(self) -> Iterator[Item | _Archive]:
        """Give what the names stand for, and note those that stand for nothing."""
        for name in self.names:
            empty = True
            for item in self._expand([name]):
                empty = False
                yield item
            if empty:
                self.without_images[name] = None

    def _expand(self, names: Iterable[str]) -> Iterator[Item | _Archive]:
        for name in names:
            if is_url(name):
                yield Item(name, partial(_itself, name))
            elif name == "-":
                yield from map(_one, _lines(sys.stdin))
            elif os.path.isdir(name):  # noqa: PTH112 - a Path would change the name as it was given
                yield from _walk(name)
            elif is_pattern(name):
                found = sorted(matches(name))
                yield from self._expand(found) if found else [unreadable(name, "no file matches")]
            elif name.lower().endswith(".txt"):
                with open(name, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
                    yield from map(_one, _lines(lines))
            else:
                yield _one(name)


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for the files that match it: one that is there stands for itself."""
    return not os.path.lexists(name) and glob.has_magic(name)


def matches(pattern: str) -> Iterator[str]:
    """Give the files and folders that match a pattern."""
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - recursive, from anywhere


@dataclass(frozen=True)
class _Archive:
    """A file of many images, which different shards may read different parts of."""

    name: str

    def parts(self, columns: Columns, sharded: bool) -> Iterator[Part]:
        """Give the parts that one shard reads as a whole."""
        if self.name.lower().endswith(".parquet"):
            from ofa_client.bulk.tables import row_groups  # noqa: PLC0415 - loads pyarrow, an extra

            return row_groups(self.name, columns, sharded)
        from ofa_client.bulk.tars import members  # noqa: PLC0415 - only for archives

        return iter([Part(partial(members, self.name), counted_by_reading=self.name.lower().endswith(".tar"))])


def _one(name: str) -> Item | _Archive:
    """Take a name as what its suffix says."""
    if not is_url(name) and name.lower().endswith((*_TAR_SUFFIXES, ".parquet")):
        return _Archive(name)
    return Item(name, partial(_itself, name))


def _is_pipe(name: str) -> bool:
    return os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name))  # noqa: PTH110, PTH112, PTH113


def _itself(name: str) -> ImageSource:
    """Give a path or a URL, which the client reads while other images are captioned."""
    return name


def _lines(lines: Iterable[str]) -> Iterator[str]:
    names = (line.strip().removeprefix("\ufeff") for line in lines)  # how some editors begin a file
    return filter(None, names)


def _walk(folder: str) -> Iterator[Item | _Archive]:
    """Give the images, archives and tables below a folder, a directory at a time, sorted within it."""
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            with os.scandir(current) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield unreadable(current, error.strerror or str(error), error.errno)
            continue
        for entry in entries:
            if entry.name.lower().endswith(TAKEN_SUFFIXES) and _may_be_read(entry):
                yield _one(entry.path)
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Tell files, and links to nowhere that have to be reported, from folders, pipes and devices."""
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:  # links in a circle
        return True
