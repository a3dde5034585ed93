"""Many images with a set number in flight, for both clients.

A window holds the images that were taken from the caller and not given back yet: as many as may be in flight, and as
many more, so that the next one starts at once when one is done. It has room again only when the caller asks for the
next result: a slow caller slows the requests, and nothing grows.
"""

from __future__ import annotations

import asyncio
import queue
import struct
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any, Callable, TypeVar

from ofa_client.errors import CaptionServiceError
from ofa_client.images import ImageSource
from ofa_client.results import Caption

DEFAULT_CONCURRENCY = 16
"""Images in flight unless told otherwise."""

_T = TypeVar("_T")
_Done = TypeVar("_Done", bound="asyncio.Task[Outcome] | Future[Outcome]")

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
) -> AsyncGenerator[Outcome, None]:
    """Give the outcomes of all images, for asyncio; one that is there does not wait for the next image."""
    limit = asyncio.Semaphore(concurrency)
    room = asyncio.Semaphore(_AHEAD * concurrency)
    changed = asyncio.Event()
    window: deque[asyncio.Task[Outcome]] = deque()

    async def one(index: int, image: ImageSource) -> Outcome:
        async with limit:
            return await outcome_of(ask, index, image)

    def start(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: changed.set())
        return task

    async def read() -> None:
        await room.acquire()
        async for index, image in _enumerated(images):
            window.append(start(one(index, image)))
            await asyncio.sleep(0)  # what is in flight goes on while a long list is read
            await room.acquire()

    reader = start(read())
    try:
        while True:
            changed.clear()
            if reader.done():
                reader.result()
                if not window:
                    return
            done = _first_done(window, in_order)
            if done is None:
                await changed.wait()
                continue
            window.remove(done)
            yield done.result()
            room.release()
    finally:
        for task in (reader, *window):
            task.cancel()
        await asyncio.gather(reader, *window, return_exceptions=True)


def _first_done(window: Iterable[_Done], in_order: bool) -> _Done | None:
    """Find what may be given back now."""
    return next((one for one in islice(window, 1 if in_order else None) if one.done()), None)


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


@dataclass(frozen=True)
class Awaited:
    """Images that keep one waiting, such as standard input's: :func:`pump` takes them in a thread of their own."""

    images: Iterable[ImageSource]

    def __iter__(self) -> Iterator[ImageSource]:
        return iter(self.images)


def pump(
    submit: Callable[[int, ImageSource], Future[Outcome]],
    images: Iterable[ImageSource],
    concurrency: int,
    in_order: bool,
) -> Iterator[Outcome]:
    """Give the outcomes of all images, for code without asyncio; ``submit`` bounds what is in flight.

    Images are taken in the caller's thread, where a generator of theirs belongs, unless they are :class:`Awaited`.
    """
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()  # what _taker() puts there, and futures that are done
    take = _taker(images, events)
    window: deque[Future[Outcome]] = deque()
    more, taking, taken = True, False, False
    try:
        while True:
            done = _first_done(window, in_order)
            # Where an outcome is there, one image is taken in its place and no more: each may take its time.
            if more and not taking and len(window) < _AHEAD * concurrency and not (done and taken):
                taking = True
                take(True)
            if not window and not more:
                return
            try:
                event = events.get(block=done is None)
            except queue.Empty:
                window.remove(done)
                taken = False
                yield done.result()
                continue
            if isinstance(event, Future):
                continue
            taking, taken = False, True
            if event is None:
                more = False
            elif isinstance(event, BaseException):
                raise event
            else:
                future = submit(*event)
                future.add_done_callback(events.put)
                window.append(future)
    finally:
        take(False)
        for future in window:
            future.cancel()


def _taker(images: Iterable[ImageSource], events: queue.SimpleQueue[Any]) -> Callable[[bool], None]:
    """Make what takes an image and puts it into ``events`` with its index: None at the end, or the images' own error.

    Call it with False when no more is wanted.
    """
    source = enumerate(images)

    def take(wanted: bool) -> None:
        if wanted:
            events.put(next(source, None))

    if not isinstance(images, Awaited):
        return take
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def serve() -> None:
        while asked.get():
            try:
                take(True)
            except BaseException as error:
                events.put(error)

    threading.Thread(target=serve, name="ofa-client-images", daemon=True).start()  # nothing can end its waiting
    return asked.put
