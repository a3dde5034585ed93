"""Captions over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import numpy as np
import tritonclient.http as protocol
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ofa_client.connection import ConnectionSettings, reason_of
from ofa_client.endpoint import Endpoint
from ofa_client.errors import DeadlineExceededError, UnexpectedResponseError
from ofa_client.transport.base import (
    CALL_SECONDS,
    SHARED_MEMORY_HEADER,
    InferRequest,
    Transport,
    infer_arguments,
    read_tensors,
)
from ofa_client.transport.refusals import deadline_exceeded, refusal, unreachable

_NO_LIMIT = 0


class HttpTransport(Transport):
    """A pool of HTTP connections, as many as there are requests at once."""

    def __init__(self, endpoint: Endpoint, settings: ConnectionSettings) -> None:
        self._server = str(endpoint)
        self._headers = settings.headers
        self._key = settings.shared_memory_key
        self._client = InferenceServerClient(
            endpoint.address,
            conn_limit=_NO_LIMIT,
            conn_timeout=None,  # each request has its own
            ssl=endpoint.secure,
            ssl_context=settings.ssl_context() if endpoint.secure else False,
        )

    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """See :class:`~ofa_client.transport.base.Transport`; past the deadline the connection is closed."""
        with self._translated():
            arguments = infer_arguments(protocol, request)
            try:
                result = await asyncio.wait_for(
                    self._client.infer(**arguments, headers=dict(self._headers)), request.timeout
                )
            except asyncio.TimeoutError as error:
                raise deadline_exceeded(request, self._server) from error
        return read_tensors(result, request)

    async def call(self, method: str, *arguments: object) -> Any:
        """See :class:`~ofa_client.transport.base.Transport`."""
        headers = {**self._headers, SHARED_MEMORY_HEADER: self._key}
        with self._translated():
            try:
                return await asyncio.wait_for(getattr(self._client, method)(*arguments, headers=headers), CALL_SECONDS)
            except asyncio.TimeoutError as error:
                raise DeadlineExceededError(f"{self._server} gave no answer within {CALL_SECONDS:g} seconds") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise this client's errors for those of tritonclient and aiohttp."""
        try:
            yield
        except InferenceServerException as error:
            raise refusal(error.status(), error.message(), self._server) from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise UnexpectedResponseError(f"{self._server} does not speak HTTP as expected") from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._server, reason_of(error)) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # where tritonclient met no Triton answer
            raise UnexpectedResponseError(f"{self._server} did not answer as Triton does") from error

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        await self._client.close()
