"""Several servers as one: requests go to them in turn, for a while not to one that is away, silent, full or broken."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Callable

import numpy as np

from ofa_client.endpoint import Endpoint
from ofa_client.errors import (
    AccessRefusedError,
    CaptionServiceError,
    InternalError,
    ModelNotFoundError,
    OverloadedError,
    ServiceUnavailableError,
    SilentServerError,
    UnexpectedResponseError,
)
from ofa_client.transport import InferRequest, Transport

AWAY_SECONDS = 1.0
"""How long a server that was away, or full without saying for how long, gets no request while there are others."""

_HANDED_ON = (OverloadedError, InternalError, UnexpectedResponseError, ModelNotFoundError, AccessRefusedError)
"""What another server may not answer; of several, the first of these is raised, which another try may help most."""

_FAULTS = 3
"""So many of these in a row are the server's, not the images'."""


class Replicas:
    """Round robin over the transports of several endpoints, which are opened at first use."""

    def __init__(self, endpoints: Sequence[Endpoint], connect: Callable[[Endpoint], Transport]) -> None:
        self._endpoints = endpoints
        self._connect = connect
        self._transports: dict[Endpoint, Transport] = {}
        # Whether for another reason than being full, and until when.
        self._aside = dict.fromkeys(endpoints, (False, 0.0))
        self._faults = dict.fromkeys(endpoints, 0)  # failures in a row
        self._next = 0
        self._closed = asyncio.Event()

    async def infer(self, request: InferRequest, deadline: float) -> dict[str, np.ndarray]:
        """Send to the next server that is not set aside; if it turns out to be full or broken, to another.

        Each may take the request's timeout, but not past ``deadline`` (``time.monotonic()``); see
        :meth:`Transport.infer`.

        Raises:
            OverloadedError: no server is left; it is the error of the one that wants to be asked again first.
            InternalError, UnexpectedResponseError, ModelNotFoundError, AccessRefusedError: all servers fail so.
            RuntimeError: closed, perhaps since this request's last try.
        """
        refused: dict[Endpoint, CaptionServiceError] = {}
        endpoint: Endpoint | None = self._pick()
        while endpoint is not None:
            if self._closed.is_set():
                raise RuntimeError("this captioner is closed")
            try:
                tensors = await self._ask(endpoint, request)
                self._faults[endpoint] = 0
                return tensors
            except ServiceUnavailableError:
                self._aside[endpoint] = (True, time.monotonic() + AWAY_SECONDS)
                raise
            except SilentServerError:  # the next request might lose as much to it
                self._aside[endpoint] = (True, time.monotonic() + max(request.timeout, AWAY_SECONDS))
                raise
            except _HANDED_ON as error:
                refused[endpoint] = error
                now = time.monotonic()
                full = isinstance(error, OverloadedError)
                self._faults[endpoint] += not full
                if full or self._faults[endpoint] >= _FAULTS:
                    self._aside[endpoint] = (not full, now + _wait(error))
            request = replace(request, timeout=min(request.timeout, max(deadline - now, 1e-3)))
            endpoint = self._next_ready(refused) or self._last_resort(refused)
        raise min(refused.values(), key=lambda error: (_rank(error), _wait(error)))

    async def _ask(self, endpoint: Endpoint, request: InferRequest) -> dict[str, np.ndarray]:
        """Ask one server. A close meanwhile is an error over both protocols: gRPC's is the cancel of who waits here."""
        if endpoint not in self._transports:
            self._transports[endpoint] = self._connect(endpoint)
        call = asyncio.ensure_future(self._transports[endpoint].infer(request))
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise
        if self._closed.is_set() and (call.cancelled() or call.exception()):
            raise RuntimeError("this captioner is closed")
        return call.result()

    def _last_resort(self, refused: Mapping[Endpoint, CaptionServiceError]) -> Endpoint | None:
        """Take one that is set aside rather than say that all are broken, unless there is one to come again to."""
        left = [endpoint for endpoint in self._endpoints if endpoint not in refused]
        if not left or any(isinstance(error, OverloadedError) for error in refused.values()):
            return None
        return min(left, key=self._aside.__getitem__)

    def _pick(self) -> Endpoint:
        """Take the next in turn; if all are set aside, the one whose time is over first, a full one if there is any."""
        return self._next_ready() or min(self._endpoints, key=self._aside.__getitem__)

    def _next_ready(self, asked: Collection[Endpoint] = ()) -> Endpoint | None:
        """Take the next in turn that is not set aside and was not asked yet."""
        now = time.monotonic()
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            if endpoint not in asked and self._aside[endpoint][1] <= now:
                return endpoint
        return None

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the close."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def close(self) -> None:
        """Close all connections, and open no more."""
        self._closed.set()
        transports, self._transports = list(self._transports.values()), {}
        await asyncio.gather(*(transport.close() for transport in transports))


def _wait(error: CaptionServiceError) -> float:
    """Tell for how many seconds the server gets no request."""
    return error.retry_after or AWAY_SECONDS


def _rank(error: CaptionServiceError) -> int:
    return next(i for i, kind in enumerate(_HANDED_ON) if isinstance(error, kind))
