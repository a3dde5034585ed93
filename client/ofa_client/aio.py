"""The client for asyncio."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from ofa_client import contract
from ofa_client.connection import ConnectionSettings, FilePath
from ofa_client.endpoint import Endpoint
from ofa_client.errors import DeadlineExceededError, InvalidParameterError
from ofa_client.images import ImageSource, is_url, read_image, refuse_size
from ofa_client.many import DEFAULT_CONCURRENCY, Outcome, checked_concurrency, stream
from ofa_client.options import SearchOptions, request_parameters
from ofa_client.replicas import Replicas
from ofa_client.results import Caption, read_captions, requested_outputs
from ofa_client.retry import NO_RETRY, Retry, retrying
from ofa_client.threads import Threads
from ofa_client.transport import InferRequest, Transport, transport_class

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ofa_client.fetch import ImageFetcher

DEFAULT_TIMEOUT = 60.0
"""Seconds a request may take unless told otherwise."""

LONGEST_TIMEOUT = 86_400.0
"""Seconds."""


class AsyncCaptioner:
    """Captions images with an OFA captioning server; for one event loop, any number of tasks.

    Args:
        url: ``grpc://host:port`` or ``http://host:port``; ``grpcs://`` or ``https://`` with TLS. Several addresses
            are replicas: they get requests in turn, one that is away is left out for a while, and one that is full
            until it said to come again.
        model: the served model's name.
        timeout: seconds an image may take with all its attempts, above 0 to 86400. The server is told, and stops
            working a little earlier.
        retry: what is tried again, and when; None tries nothing again.
        api_key: sent as ``Authorization: Bearer …``, for the proxy in front of the server.
        headers: sent with every request; over gRPC as metadata, so that no name ends with ``-bin``.
        ca_file: PEM certificates to trust with TLS instead of the system's.
        cert_file: this client's own PEM certificate, for a server that wants one (mutual TLS).
        key_file: its private key, if that is not in ``cert_file``.
        keep_alive: seconds of silence after which gRPC pings the server, at least 1; None never does. The server
            has to allow as many pings (Triton: ``--grpc-http2-min-recv-ping-interval-without-data``).
        public_urls_only: refuse image URLs whose address is not public; for services that caption what strangers
            name.
        shared_memory_key: send images through system shared memory, to a server on this host that was started with
            this ``--shared-memory-key``; Linux only. Close such a captioner, so that its memory is given back.

    Raises:
        ValueError: an address, a timeout, a header or a certificate file that makes no sense.
        OSError: a certificate file cannot be read.

    Nothing is sent before the first caption.
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
        urls = [url] if isinstance(url, str) else list(dict.fromkeys(url))
        if not urls:
            raise ValueError("at least one server's address is needed")
        self._endpoints = [Endpoint.parse(one) for one in urls]
        self._model = model
        self._timeout = _checked_timeout(timeout)
        self._retry = retry or NO_RETRY
        self._settings = ConnectionSettings.checked(
            ca_file, cert_file, key_file, headers, api_key, keep_alive, shared_memory_key
        )
        self._public_urls_only = public_urls_only
        for endpoint in self._endpoints:
            self._transport(endpoint)  # loads the protocol now rather than while requests wait
        self._replicas: Replicas | None = None
        self._threads: Threads | None = None
        self._fetcher: ImageFetcher | None = None
        self._captioned_at = -math.inf
        self._closed = False

    async def caption(
        self,
        image: ImageSource,
        *,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> Caption:
        """Return the best caption of an image.

        Args:
            image: a path, an ``http://`` or ``https://`` URL (fetched by this client, in 20 seconds and 20 MiB at
                most), an image file's bytes, a binary file, a Pillow image, or RGB uint8 [height, width, 3].
            timeout: seconds, instead of the captioner's; what fetching or reading the image takes counts.
            details: ask for tokens, their log-probabilities and the time of each stage as well.
            **options: see :class:`~ofa_client.SearchOptions`.

        Raises:
            CaptionServiceError: one subclass for each reason, see :mod:`ofa_client.errors`.
            OSError: the image file cannot be read.
            TypeError, ValueError: not an image source, or a timeout out of range.
        """
        _refuse_num_captions(options)
        return (await self.captions(image, num_captions=1, timeout=timeout, details=details, **options))[0]

    async def captions(
        self,
        image: ImageSource,
        *,
        num_captions: int | None = None,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> list[Caption]:
        """Return the ``num_captions`` best captions of an image, best first; fewer where the search found fewer.

        Args:
            image: as for :meth:`caption`.
            num_captions: 1 to ``beam_size``; None is the checkpoint's default.
            timeout: as for :meth:`caption`.
            details: as for :meth:`caption`.
            **options: as for :meth:`caption`.

        Raises:
            CaptionServiceError, OSError, TypeError, ValueError: as for :meth:`caption`.
        """
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        parameters = request_parameters({"num_captions": num_captions, **options})
        replicas = self._connected()
        data = await self._read(image, seconds, deadline, replicas)

        async def send(attempt_timeout: float) -> list[Caption]:
            request = InferRequest(self._model, data, requested_outputs(details), parameters, attempt_timeout)
            return read_captions(await replicas.infer(request, deadline), details)

        found = await retrying(send, self._retry, deadline, replicas.pause)
        self._captioned_at = time.monotonic()
        return found

    async def caption_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        in_order: bool = True,
        num_captions: int | None = 1,
        timeout: float | None = None,
        details: bool = False,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[Outcome]:
        """Caption any number of images with a set number in flight; one that fails does not end it.

        At most twice ``concurrency`` images are held at a time: whoever is slow to take the outcomes slows the
        requests. Ending the iteration early, with the generator's ``aclose()``, cancels what is in flight.

        Args:
            images: any iterable, read as room comes free. One that blocks, such as a generator that reads files,
                blocks the event loop: give paths, or an asynchronous iterable. An array must stay as it is until
                its caption is there.
            concurrency: images in flight at most, at least 1.
            in_order: in the order given; otherwise each as soon as it is there.
            num_captions: captions an image; None is the checkpoint's default.
            timeout: for each image, as for :meth:`caption`.
            details: as for :meth:`caption`.
            **options: as for :meth:`caption`.

        Yields:
            Outcome: an image's captions, or its error.

        Raises:
            ValueError: a concurrency or a timeout out of range.
            InvalidParameterError: an option unknown, or of the wrong type.
        """
        self._check_many(concurrency, timeout, {"num_captions": num_captions, **options})

        async def ask(image: ImageSource) -> list[Caption]:
            return await self.captions(image, num_captions=num_captions, timeout=timeout, details=details, **options)

        outcomes = stream(ask, images, concurrency, in_order)
        try:
            async for outcome in outcomes:
                yield outcome
        finally:
            await outcomes.aclose()

    def _check_many(self, concurrency: int, timeout: float | None, options: Mapping[str, object]) -> None:
        """Refuse at once what each image would be refused for."""
        checked_concurrency(concurrency)
        request_parameters(options)
        if timeout is not None:
            _checked_timeout(timeout)

    def _seconds(self, timeout: float | None) -> float:
        """Tell how long an image may take that was asked for with this timeout."""
        return self._timeout if timeout is None else _checked_timeout(timeout)

    async def _read(self, image: ImageSource, seconds: float, deadline: float, replicas: Replicas) -> bytes:
        if isinstance(image, bytes):
            refuse_size(len(image), "the image")
            return image
        if self._threads is None:
            self._threads = Threads()
        if not is_url(image):
            reading = asyncio.ensure_future(self._threads.run(read_image, image))
        else:
            if self._fetcher is None:
                from ofa_client.fetch import ImageFetcher  # noqa: PLC0415 - loads aiohttp, which gRPC does without

                self._fetcher = ImageFetcher(self._threads, self._public_urls_only)
            reading = asyncio.ensure_future(self._fetcher.fetch(str(image), self._retry, deadline, replicas.pause))
        try:
            return await asyncio.wait_for(reading, seconds)
        except asyncio.TimeoutError as error:
            if not reading.cancelled():
                raise  # the file's own
            raise _not_read(image, seconds) from error

    def _connected(self) -> Replicas:
        """Connect at first use: connections belong to the event loop that runs then."""
        if self._closed:
            raise RuntimeError("this captioner is closed")
        if self._replicas is None:
            self._replicas = Replicas(self._endpoints, self._open)
        return self._replicas

    def _open(self, endpoint: Endpoint) -> Transport:
        return self._transport(endpoint)(endpoint, self._settings)

    def _transport(self, endpoint: Endpoint) -> type[Transport]:
        protocol = transport_class(endpoint)
        if self._settings.shared_memory_key is None:
            return protocol
        from ofa_client.shared_memory import SharedMemoryTransport  # noqa: PLC0415 - Linux alone has it

        return SharedMemoryTransport

    async def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._closed = True
        replicas, self._replicas = self._replicas, None
        fetcher, self._fetcher = self._fetcher, None
        if replicas is not None:
            await replicas.close()
        if fetcher is not None:
            await fetcher.close()

    async def __aenter__(self) -> AsyncCaptioner:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _not_read(image: ImageSource, seconds: float) -> DeadlineExceededError:
    """Say that an image took all its time before it could be sent."""
    name = image if isinstance(image, (str, os.PathLike)) else "the image"
    return DeadlineExceededError(f"{name} was not {'fetched' if is_url(image) else 'read'} within {seconds:g} seconds")


def _refuse_num_captions(options: Mapping[str, object]) -> None:
    if "num_captions" in options:
        raise InvalidParameterError("num_captions is an option of captions(), caption() returns the best one")


def _checked_timeout(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_TIMEOUT):
        raise ValueError(f"a timeout is above 0 and at most {LONGEST_TIMEOUT:g} seconds, not {seconds!r}")
    return float(seconds)
