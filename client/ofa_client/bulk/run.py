"""From inputs to output: skips what is done, captions the rest, and stops for what all images would meet."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from ofa_client import errors
from ofa_client.bulk.items import Inputs, Item
from ofa_client.bulk.outage import Suspects
from ofa_client.bulk.output import Output
from ofa_client.images import ImageSource
from ofa_client.many import Awaited
from ofa_client.retry import Retry
from ofa_client.sync import Captioner

PATIENT = Retry(attempts=1_000_000, patience=120.0)
"""How the images of a data set are tried: the patience ends it, not the number of attempts."""

_FATAL = (
    errors.ServiceUnavailableError,
    errors.SilentServerError,
    errors.OverloadedError,
    errors.ModelNotFoundError,
    errors.AccessRefusedError,
    errors.InvalidParameterError,
    errors.InvalidRequestError,
)

_PERHAPS_THE_IMAGE = (errors.SilentServerError, errors.OverloadedError)


def is_fatal(error: Exception | None, captioner: Captioner, in_order: bool) -> bool:
    """Tell what would happen to every other image as well; the image it happened to does not count as done.

    A server that captioned others since it first let this image down does so with this image alone. Where the others
    wait for this one's turn, they may have been captioned while it was first waited for.
    """
    if isinstance(error, _PERHAPS_THE_IMAGE):
        since = error._first_sent if in_order else error._first_failed
        return not captioner._captioned_since(since)
    return isinstance(error, _FATAL)


def caption_items(captioner: Captioner, inputs: Inputs, output: Output, outage: int, **options: Any) -> None:
    """Caption all inputs that are not done yet; ``options`` are those of ``caption_many``.

    Args:
        captioner: asks the server.
        inputs: the images.
        output: takes what becomes of them.
        outage: so many failures in a row that need not be the images' own end the run; 0 takes each for its image's.
        **options: as for ``caption_many``.

    Raises:
        CaptionServiceError: what is fatal, or nonsense from the server before it captioned anything.
        OutageError: network, disk or server seem to be broken.
        ImportError, ValueError, OSError: inputs that cannot be read, or output that cannot be written.
    """
    keys: dict[int, str] = {}
    suspects = Suspects(output.fail, outage)
    nonsense: tuple[type[Exception], ...] = (errors.UnexpectedResponseError,)
    images: Iterable[ImageSource] = _images(inputs, output, keys)
    if inputs.come_once:
        images = Awaited(images)
    outcomes = captioner.caption_many(images, in_order=output.in_order, **options)
    try:
        for outcome in outcomes:
            key = keys.pop(outcome.index)
            if outcome.error is None:
                suspects.settle(outcome.index)
                output.write(key, outcome.captions)
                nonsense = ()
            elif is_fatal(outcome.error, captioner, output.in_order) or isinstance(outcome.error, nonsense):
                raise outcome.error
            else:
                suspects.add(outcome.index, key, outcome.error)
        suspects.settle()
    finally:
        outcomes.close()


def _images(items: Iterable[Item], output: Output, keys: dict[int, str]) -> Iterator[ImageSource]:
    """Give the images that are not done, and note which key each has."""
    index = 0
    for item in items:
        if not output.wants(item.key):
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


def count_in_background(inputs: Inputs, output: Output) -> None:
    """Count the images beside the captioning, for the time left."""

    def count() -> None:
        try:
            output.expect(inputs.count())
        except (ImportError, ValueError, OSError):  # whoever captions them meets it too, and says so
            return

    threading.Thread(target=count, name="ofa-client-count", daemon=True).start()
