"""Images in tar archives, as WebDataset has them."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from functools import partial

from ofa_client.bulk.items import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, Item, unreadable
from ofa_client.images import ImageSource

_DAMAGED = (tarfile.TarError, EOFError, zlib.error)


def members(name: str) -> Iterator[Item]:
    """Give the images of an archive in its order; an archive that cannot be read on is an item that cannot be read."""
    try:
        with tarfile.open(name) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep every member's header
                if member.isfile() and member.name.lower().endswith((*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES)):
                    yield Item(f"{name}/{member.name}", partial(_read, archive, member))
    except _DAMAGED as error:
        yield unreadable(name, f"the archive is damaged ({error})")
    except OSError as error:
        yield unreadable(name, error.strerror or str(error))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> ImageSource:
    try:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
    except _DAMAGED as error:
        raise OSError(None, f"the archive is damaged ({error})") from error
    if len(data) < member.size:
        raise OSError(None, "the archive ends early")
    return data
