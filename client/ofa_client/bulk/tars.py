"""Images in tar archives, as WebDataset has them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from ofa_client.bulk.items import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, Item, unreadable
from ofa_client.images import ImageSource, refuse_size

_REST_AT_A_TIME = 1 << 16
_LONGEST_HEADERS = 1 << 20
"""What the headers of one member may take, long names, attributes and maps included: all is held in memory."""


class _Headers:
    """An archive's file while a member's headers are read from it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = _LONGEST_HEADERS
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError("a header's size is out of range")
        self._left -= size
        return self._file.read(size)


class _Member(tarfile.TarInfo):
    """A header that is damaged, cut short or missing is not taken for the archive's end, which is a block of zeros."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """See :class:`tarfile.TarInfo`."""
        file = archive.fileobj
        archive.fileobj = _Headers(file)
        try:
            return super().fromtarfile(archive)
        finally:
            archive.fileobj = file

    @classmethod
    def frombuf(cls, *arguments: Any) -> tarfile.TarInfo:
        """See :class:`tarfile.TarInfo`."""
        try:
            return super().frombuf(*arguments)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error
        except tarfile.EmptyHeaderError as error:
            raise tarfile.ReadError("it ends early") from error


def members(name: str) -> Iterator[Item]:
    """Give the images of an archive in its order; an archive that cannot be read on is an item that cannot be read."""
    try:
        with _opened(name) as archive:
            # Python 3.9 fails where it looks for the next member of an archive that has none.
            while archive.offset and (member := archive.next()) is not None:
                archive.members = []  # it would keep every member's header
                if member.isfile() and member.name.lower().endswith((*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES)):
                    yield Item(f"{name}/{member.name}", partial(_read, archive, member))
            while rest := archive.fileobj.read(_REST_AT_A_TIME):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("there is more behind its end")
    except _NoArchiveError:
        yield unreadable(name, "this is no tar archive, or its beginning is damaged")
    except Exception as error:  # damage shows in many ways inside tarfile and the decompressors
        yield unreadable(name, _reason(error), getattr(error, "errno", None))


class _NoArchiveError(Exception):
    """A file that begins as no archive does."""


def _opened(name: str) -> tarfile.TarFile:
    try:
        return tarfile.open(name, tarinfo=_Member)
    except tarfile.ReadError as error:  # it lists each compression that was tried, by the library's own names
        raise _NoArchiveError from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> ImageSource:
    refuse_size(member.size, member.name)
    try:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
    except Exception as error:  # as above
        raise OSError(getattr(error, "errno", None), _reason(error)) from error
    if len(data) < member.size:
        raise OSError(None, "the archive ends early")
    return data


def _reason(error: Exception) -> str:
    """Say on one line why an archive cannot be read: as the system does, or what is damaged where tarfile has words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError):
        return "the archive is damaged (it ends early)"
    why = " ".join(str(error).split()) if isinstance(error, tarfile.ReadError) else ""
    return f"the archive is damaged ({why})" if why else "the archive is damaged"
