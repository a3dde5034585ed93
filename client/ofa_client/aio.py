"""The client for asyncio."""

from __future__ import annotations

import asyncio
import math
import ssl
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING

from ofa_client import contract
from ofa_client.endpoint import Endpoint
from ofa_client.errors import InvalidParameterError
from ofa_client.images import ImageSource, read_image
from ofa_client.options import SearchOptions, request_parameters
from ofa_client.results import Caption, read_captions, requested_outputs
from ofa_client.transport import InferRequest, Transport, transport_class

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_TIMEOUT = 60.0
"""Seconds a request may take unless told otherwise."""

_LONGEST_TIMEOUT = 86_400.0


class AsyncCaptioner:
    """Captions images with an OFA captioning server; for one event loop, any number of tasks.

    Args:
        url: ``grpc://host:port`` or ``http://host:port``; ``grpcs://`` or ``https://`` with TLS.
        model: the served model's name.
        timeout: seconds a request may take, above 0 to 86400. The server is told, and stops working then.
        ca_file: PEM certificates to trust with TLS instead of the system's.

    Raises:
        ValueError: an address, a timeout or a certificate file that makes no sense.
        OSError: the certificate file cannot be read.

    Nothing is sent before the first caption.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = contract.MODEL,
        timeout: float = DEFAULT_TIMEOUT,
        ca_file: str | PathLike[str] | None = None,
    ) -> None:
        self._endpoint = Endpoint.parse(url)
        self._model = model
        self._timeout = _checked_timeout(timeout)
        self._ca_file = _checked_ca_file(ca_file)
        self._transport_class = transport_class(self._endpoint)
        self._transport: Transport | None = None
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
            image: a path, an image file's bytes, a binary file, a Pillow image, or RGB uint8 [height, width, 3].
            timeout: seconds, instead of the captioner's.
            details: ask for tokens, their log-probabilities and the time of each stage as well.
            **options: see :class:`~ofa_client.SearchOptions`.

        Raises:
            CaptionServiceError: one subclass for each reason, see :mod:`ofa_client.errors`.
            OSError: the image file cannot be read.
            TypeError, ValueError: not an image source, or a timeout out of range.
        """
        if "num_captions" in options:
            raise InvalidParameterError("num_captions is an option of captions(), caption() returns the best one")
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
        data = image if isinstance(image, bytes) else await asyncio.to_thread(read_image, image)
        request = InferRequest(
            model=self._model,
            image=data,
            outputs=requested_outputs(details),
            parameters=request_parameters({"num_captions": num_captions, **options}),
            timeout=self._timeout if timeout is None else _checked_timeout(timeout),
        )
        return read_captions(await self._connected().infer(request), details)

    def _connected(self) -> Transport:
        """Open the transport at first use: it belongs to the event loop that runs then."""
        if self._closed:
            raise RuntimeError("this captioner is closed")
        if self._transport is None:
            self._transport = self._transport_class(self._endpoint, self._ca_file)
        return self._transport

    async def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._closed = True
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.close()

    async def __aenter__(self) -> AsyncCaptioner:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _checked_timeout(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_TIMEOUT):
        raise ValueError(f"a timeout is above 0 and at most {_LONGEST_TIMEOUT:g} seconds, not {seconds!r}")
    return float(seconds)


def _checked_ca_file(path: str | PathLike[str] | None) -> str | PathLike[str] | None:
    """Refuse a file without certificates here: later it would look like a server that cannot be reached."""
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise ValueError(f"{path} holds no PEM certificates") from error
    return path
