"""Tells what is broken around a run, such as the network or a disk, from images that are broken themselves."""

from __future__ import annotations

import errno
import math
from typing import Callable

from ofa_client import errors

_SUSPICIOUS = (
    errors.ImageHostError,
    errors.InternalError,
    errors.UnexpectedResponseError,
    errors.DeadlineExceededError,
    errors.OverloadedError,
)

_OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, None}
"""None is this client's own reason, such as a damaged archive."""


class OutageError(Exception):
    """So many images failed in a row, in ways of a broken environment, that none of them shall count as done."""


class Suspects:
    """Failures that may not be the images' own: held back until a later image goes well, or there are too many of them.

    Args:
        fail: takes the key, the code and the reason of a failure that counts.
        most: how many in a row are an outage; 0 holds none back.
    """

    def __init__(self, fail: Callable[[str, str, str], None], most: int) -> None:
        self._fail = fail
        self._most = most
        self._held: list[tuple[int, str, str, str]] = []

    def add(self, index: int, key: str, error: Exception) -> None:
        """Take the failure of an image; ``index`` is its place among those of the run.

        Raises:
            OutageError: it is one too many.
        """
        code, reason = reason_of(error)
        if not (self._most and is_suspicious(error)):
            self._fail(key, code, reason)
            if not isinstance(error, OSError):  # the server or an image's host has answered
                self.settle(index)
            return
        self._held.append((index, key, code, reason))
        if len(self._held) >= self._most:
            raise OutageError(
                f"{len(self._held)} images in a row failed as all do where network, disk or server are broken, and do "
                "not count as done; with --patience 0 each failure is its image's own "
                f"(the last: {key}: {code}: {reason})"
            )

    def settle(self, index: float = math.inf) -> None:
        """Let the failures before this image count: what it met well was no outage.

        One that was begun earlier may only have been through before the outage.
        """
        for held in self._held:
            if held[0] < index:
                self._fail(*held[1:])
        self._held = [held for held in self._held if held[0] > index]


def is_suspicious(error: Exception) -> bool:
    """Tell whether other images would fail in this way as well, if there is an outage."""
    return error.errno not in _OF_THE_FILE if isinstance(error, OSError) else isinstance(error, _SUSPICIOUS)


def reason_of(error: Exception) -> tuple[str, str]:
    """Say why an image has no caption: the code, and the sentence behind it."""
    if isinstance(error, errors.CaptionServiceError):
        return error.code, str(error).partition(": ")[2]
    return "UNREADABLE", getattr(error, "strerror", None) or str(error)
