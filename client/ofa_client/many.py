"""Many images with a set number in flight, for both clients.

A window holds the images that were taken from the caller and not given back yet: as many as may be in flight, and as
many more, so that the next one starts at once when one is done. It is refilled only when the caller asks for a result:
a slow caller slows the requests, and nothing grows.
"""

from __future__ import annotations

import asyncio
import queue
import struct
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable

from ofa_client.errors import CaptionServiceError
from ofa_client.images import ImageSource
from ofa_client.results import Caption

DEFAULT_CONCURRENCY = 16
"""Images in flight unless told otherwise."""

_AHEAD = 2
"""The window's size in images in flight."""


@dataclass(frozen=True)
class Outcome:
    """What became of one image of many."""

    index: int
    """The image's place among those given, from 0."""

    image: ImageSource
    """The image as it was given."""

    captions: tuple[Caption, ...] = ()
    """Best first; empty where there is an error."""

    error: Exception | None = None
    """Why there is no caption: a :class:`CaptionServiceError`, or an ``OSError`` for a file that cannot be read."""

    @property
    def caption(self) -> Caption:
        """The best caption.

        Raises:
            CaptionServiceError, OSError, TypeError, ValueError: the image has none.
        """
        if self.error is not None:
            raise self.error
        return self.captions[0]


Ask = Callable[[ImageSource], Coroutine[Any, Any, "list[Caption]"]]


def checked_concurrency(concurrency: int) -> int:
    """Refuse a number of images in flight that makes no sense."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    return concurrency


async def outcome_of(ask: Ask, index: int, image: ImageSource) -> Outcome:
    """Ask for one image; what may be wrong with an image or a server becomes part of the outcome."""
    try:
        return Outcome(index, image, tuple(await ask(image)))
    except (CaptionServiceError, OSError, TypeError, ValueError, MemoryError, struct.error) as error:
        return Outcome(index, image, error=error)


async def stream(
    ask: Ask, images: Iterable[ImageSource] | AsyncIterable[ImageSource], concurrency: int, in_order: bool
) -> AsyncIterator[Outcome]:
    """Give the outcomes of all images, for asyncio."""
    source = _enumerated(images)
    limit = asyncio.Semaphore(concurrency)
    done: asyncio.Queue[asyncio.Task[Outcome]] = asyncio.Queue()
    window: deque[asyncio.Task[Outcome]] = deque()
    more = True

    async def one(index: int, image: ImageSource) -> Outcome:
        async with limit:
            return await outcome_of(ask, index, image)

    try:
        while True:
            while more and len(window) < _AHEAD * concurrency:
                try:
                    task = asyncio.ensure_future(one(*await source.__anext__()))
                except StopAsyncIteration:
                    more = False
                    break
                if not in_order:
                    task.add_done_callback(done.put_nowait)
                window.append(task)
                await asyncio.sleep(0)  # what is in flight goes on while a long list is read
            if not window:
                return
            if in_order:
                yield await window.popleft()
            else:
                task = await done.get()
                window.remove(task)
                yield task.result()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


async def _enumerated(
    images: Iterable[ImageSource] | AsyncIterable[ImageSource],
) -> AsyncIterator[tuple[int, ImageSource]]:
    index = 0
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield index, image
            index += 1
        return
    for image in images:
        yield index, image
        index += 1


def pump(
    submit: Callable[[int, ImageSource], Future[Outcome]],
    images: Iterable[ImageSource],
    concurrency: int,
    in_order: bool,
) -> Iterator[Outcome]:
    """Give the outcomes of all images, for code without asyncio; ``submit`` bounds what is in flight.

    Images are taken in the caller's thread, where a generator of theirs belongs.
    """
    source = enumerate(images)
    done: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
    window: deque[Future[Outcome]] = deque()
    more = True
    try:
        while True:
            while more and len(window) < _AHEAD * concurrency:
                index_and_image = next(source, None)
                if index_and_image is None:
                    more = False
                    break
                future = submit(*index_and_image)
                if not in_order:
                    future.add_done_callback(done.put)
                window.append(future)
            if not window:
                return
            if in_order:
                yield window.popleft().result()
            else:
                future = done.get()
                window.remove(future)
                yield future.result()
    finally:
        for future in window:
            future.cancel()
