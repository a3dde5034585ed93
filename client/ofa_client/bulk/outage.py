"""Tells what is broken around a run, such as the network or a disk, from images that are broken themselves."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from dataclasses import dataclass
from typing import Callable

from ofa_client import errors
from ofa_client.images import is_url

_SUSPICIOUS = (
    errors.ImageHostError,
    errors.InternalError,
    errors.UnexpectedResponseError,
    errors.DeadlineExceededError,
    errors.OverloadedError,
)

_OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, None}
"""None is this client's own reason, such as a damaged archive."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
"""What the name service answers; where it cannot be asked, the number is another."""


class OutageError(Exception):
    """Images failed in ways of a broken environment, and none of them shall count as done.

    So many did in a row, or the inputs ended while no host of an image answered.
    """


@dataclass(frozen=True)
class _Failure:
    index: int
    key: str
    code: str
    reason: str
    silent: bool
    """Nothing came from the image's host, nor from the name service about it."""

    answered: bool
    """The image's host gave an answer, such as that it is full."""


class Suspects:
    """Failures that may not be the images' own: held back until a later image goes well, or there are too many of them.

    Args:
        fail: takes the key, the code and the reason of a failure that counts.
        most: how many in a row are an outage; 0 holds none back.
    """

    def __init__(self, fail: Callable[[str, str, str], None], most: int) -> None:
        self._fail = fail
        self._most = most
        self._held: list[_Failure] = []

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
        self._held.append(_Failure(index, key, code, reason, _is_silence(error), _is_answer(error)))
        if len(self._held) >= self._most:
            raise _outage(
                f"{len(self._held)} images in a row failed as all do where network, disk or server are broken, and do "
                "not count as done",
                self._held[-1],
            )

    def settle(self, index: float | None = None) -> None:
        """Let the failures before this image count: what it met well was no outage.

        One that was begun earlier may only have been through before the outage. Without an image, the inputs have
        ended: all count, unless hosts of images were silent and none has answered since.

        Raises:
            OutageError: that is so.
        """
        if index is None:
            silent = [held for held in self._held if held.silent]
            if silent and not any(held.answered for held in self._held):
                what = f"no host of an image answers; images that do not count as done: {len(self._held)}"
                raise _outage(what, silent[-1])
            index = math.inf
        for held in self._held:
            if held.index < index:
                self._fail(held.key, held.code, held.reason)
        self._held = [held for held in self._held if held.index > index]


def _outage(what: str, last: _Failure) -> OutageError:
    return OutageError(
        f"{what}; with --patience 0 each failure is its image's own (the last: {last.key}: {last.code}: {last.reason})"
    )


def is_suspicious(error: Exception) -> bool:
    """Tell whether other images would fail in this way as well, if there is an outage."""
    return error.errno not in _OF_THE_FILE if isinstance(error, OSError) else isinstance(error, _SUSPICIOUS)


def _is_silence(error: Exception) -> bool:
    """Tell whether nothing came from an image's host: it may be away for a while, or this client's network is.

    That there is no such host is an answer of the name service, and so an image's own failure.
    """
    cause = getattr(error.__cause__, "os_error", error.__cause__)
    if type(error) is errors.DeadlineExceededError:  # fetching it took all the image's time; servers give other causes
        return isinstance(cause, asyncio.TimeoutError) and is_url(error.message)
    no_such_name = isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME
    return isinstance(error, errors.ImageHostError) and not (no_such_name or _is_answer(error))


def _is_answer(error: Exception) -> bool:
    """Tell whether an image's host answered, though with no image: a status, or a file that broke off."""
    if not isinstance(error, errors.ImageHostError):
        return False
    from aiohttp import ClientPayloadError  # noqa: PLC0415 - whoever fetches has loaded it, others do without

    return error.__cause__ is None or isinstance(error.__cause__, ClientPayloadError)


def reason_of(error: Exception) -> tuple[str, str]:
    """Say why an image has no caption: the code, and the sentence behind it."""
    if isinstance(error, errors.CaptionServiceError):
        return error.code, str(error).partition(": ")[2]
    return "UNREADABLE", getattr(error, "strerror", None) or str(error)
