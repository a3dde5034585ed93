"""From inputs to output: skips what is done, captions the rest, and stops for what all images would meet."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from ofa_client import errors
from ofa_client.bulk.items import Inputs, Item
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.output import Output
from ofa_client.images import ImageSource
from ofa_client.many import Awaited
from ofa_client.sync import Captioner

FATAL = (
    errors.ServiceUnavailableError,
    errors.SilentServerError,
    errors.OverloadedError,
    errors.ModelNotFoundError,
    errors.AccessRefusedError,
    errors.InvalidParameterError,
    errors.InvalidRequestError,
)
"""What would happen to every other image as well; the image it happened to does not count as done."""


def caption_items(captioner: Captioner, inputs: Inputs, output: Output, **options: Any) -> None:
    """Caption all inputs that are not done yet; ``options`` are those of ``caption_many``.

    Raises:
        CaptionServiceError: one of ``FATAL``, or nonsense from the server before it captioned anything.
        ImportError, ValueError, OSError: inputs that cannot be read, or output that cannot be written.
    """
    keys: dict[int, str] = {}
    fatal: tuple[type[Exception], ...] = (*FATAL, errors.UnexpectedResponseError)
    images: Iterable[ImageSource] = _images(inputs, output, keys)
    if inputs.on_standard_input:
        images = Awaited(images)
    outcomes = captioner.caption_many(images, in_order=output.in_order, **options)
    try:
        for outcome in outcomes:
            key = keys.pop(outcome.index)
            if outcome.error is None:
                output.write(key, outcome.captions)
                fatal = FATAL
            elif isinstance(outcome.error, fatal):
                raise outcome.error
            else:
                output.fail(key, *_reason(outcome.error))
    finally:
        outcomes.close()


def _images(items: Iterable[Item], output: Output, keys: dict[int, str]) -> Iterator[ImageSource]:
    """Give the images that are not done, and note which key each has."""
    index = 0
    met = KeySet()
    for item in items:
        if not met.add(item.key):
            output.repeated += 1
            continue
        if not output.done.add(item.key):
            continue
        keys[index] = item.key
        index += 1
        try:
            image = item.load()
        except (OSError, errors.ImageTooLargeError) as error:
            image = _Unreadable(error)
        yield image


class _Unreadable(io.RawIOBase):
    """Stands for an image that could not be loaded, so that its failure comes in its turn."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, _size: int = -1) -> bytes:
        raise self._error


def _reason(error: Exception) -> tuple[str, str]:
    """Say why an image has no caption: the code, and the sentence behind it."""
    if isinstance(error, errors.CaptionServiceError):
        return error.code, str(error).partition(": ")[2]
    return "UNREADABLE", getattr(error, "strerror", None) or str(error)


def count_in_background(inputs: Inputs, output: Output) -> None:
    """Count the images beside the captioning, for the time left."""

    def count() -> None:
        try:
            output.expect(inputs.count())
        except (ImportError, ValueError, OSError):  # whoever captions them meets it too, and says so
            return

    threading.Thread(target=count, name="ofa-client-count", daemon=True).start()
