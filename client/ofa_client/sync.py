"""The client for code without asyncio: the asynchronous one, on a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ofa_client import contract
from ofa_client.aio import DEFAULT_TIMEOUT, AsyncCaptioner
from ofa_client.connection import FilePath
from ofa_client.images import ImageSource
from ofa_client.many import DEFAULT_CONCURRENCY, Outcome, outcome_of, pump
from ofa_client.options import SearchOptions
from ofa_client.results import Caption
from ofa_client.retry import Retry

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")

_CLOSED = "this captioner is closed"


class Captioner:
    """Captions images with an OFA captioning server. Threads may share one; a forked process makes its own.

    >>> with Captioner("grpc://localhost:8001") as captioner:          # doctest: +SKIP
    ...     print(captioner.caption("photo.jpg").text)

    Arguments and errors are those of :class:`~ofa_client.AsyncCaptioner`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        model: str = contract.MODEL,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry | None = Retry(),  # noqa: B008 - frozen
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: FilePath | None = None,
        cert_file: FilePath | None = None,
        key_file: FilePath | None = None,
        keep_alive: float | None = None,
        public_urls_only: bool = False,
        shared_memory_key: str | None = None,
    ) -> None:
        self._captioner = AsyncCaptioner(
            url,
            model=model,
            timeout=timeout,
            retry=retry,
            api_key=api_key,
            headers=headers,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            keep_alive=keep_alive,
            public_urls_only=public_urls_only,
            shared_memory_key=shared_memory_key,
        )
        self._loop = _LoopThread()
        self._process = os.getpid()
        self._forgotten = weakref.finalize(self, self._loop.stop_soon, self._captioner)
        if shared_memory_key is not None:
            atexit.register(_close_if_alive, weakref.ref(self))  # the server has to forget its regions

    def caption(
        self,
        image: ImageSource,
        *,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> Caption:
        """Return the best caption of an image; see :meth:`AsyncCaptioner.caption`."""
        self._check_usable()
        return self._loop.run(self._captioner.caption(image, timeout=timeout, details=details, **options))

    def captions(
        self,
        image: ImageSource,
        *,
        num_captions: int | None = None,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> list[Caption]:
        """Return the ``num_captions`` best captions of an image, best first; see :meth:`AsyncCaptioner.captions`."""
        self._check_usable()
        return self._loop.run(
            self._captioner.captions(image, num_captions=num_captions, timeout=timeout, details=details, **options)
        )

    def caption_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        in_order: bool = True,
        num_captions: int | None = 1,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> Iterator[Outcome]:
        """Caption any number of images with a set number in flight; see :meth:`AsyncCaptioner.caption_many`.

        The iterable is read in the caller's thread, the images themselves in others. While it waits for its next
        image, no outcome is given: one that waits for long is better given to the asynchronous captioner. Ending the
        iteration early cancels what is in flight.
        """
        self._check_usable()
        self._captioner._check_many(concurrency, timeout, {"num_captions": num_captions, **options})
        limit = self._loop.run(_semaphore(concurrency))

        async def ask(image: ImageSource) -> list[Caption]:
            async with limit:
                return await self._captioner.captions(
                    image, num_captions=num_captions, timeout=timeout, details=details, **options
                )

        def submit(index: int, image: ImageSource) -> Future[Outcome]:
            self._check_usable()
            return self._loop.submit(outcome_of(ask, index, image))

        return _until_closed(pump(submit, images, concurrency, in_order))

    def _captioned_since(self, moment: float) -> bool:
        """Tell whether any image got its caption since then, of ``time.monotonic()``."""
        return self._captioner._captioned_at >= moment

    def _check_usable(self) -> None:
        if not self._forgotten.alive:
            raise RuntimeError(_CLOSED)
        if os.getpid() != self._process:
            raise RuntimeError("a captioner does not survive a fork: create one in the new process")

    def close(self) -> None:
        """Close the connections and end the thread; a second call does nothing."""
        if self._forgotten.detach() and os.getpid() == self._process:
            self._loop.stop_soon(self._captioner)
            self._loop.join()

    def __enter__(self) -> Captioner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close_if_alive(reference: weakref.ref[Captioner]) -> None:
    captioner = reference()
    if captioner is not None:
        captioner.close()


def _until_closed(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Give the outcomes; that the end of the loop cancels the next one is an error, and no cancel of the caller's."""
    try:
        yield from outcomes
    except CancelledError as error:
        raise RuntimeError(_CLOSED) from error


async def _semaphore(value: int) -> asyncio.Semaphore:
    """Make one in the loop that will use it: Python 3.9 binds it there and then."""
    return asyncio.Semaphore(value)


class _LoopThread:
    """An event loop that runs in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="ofa-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            requests = asyncio.all_tasks(self._loop)
            for request in requests:
                request.cancel()
            self._loop.run_until_complete(asyncio.gather(*requests, return_exceptions=True))
        finally:
            self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end; an interrupt (Ctrl-C) cancels it, and so the request."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError as error:  # nobody else cancels it than the end of the loop
            raise RuntimeError(_CLOSED) from error
        except BaseException:
            future.cancel()
            raise

    def stop_soon(self, captioner: AsyncCaptioner) -> None:
        """Close the captioner, then the loop, without waiting: a finalizer may run in this very thread."""
        asyncio.run_coroutine_threadsafe(self._close(captioner), self._loop)

    async def _close(self, captioner: AsyncCaptioner) -> None:
        try:
            await captioner.close()
        finally:
            self._loop.stop()

    def join(self) -> None:
        """Wait until the loop has ended."""
        self._thread.join()
