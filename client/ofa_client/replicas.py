"""Several servers as one: requests go to them in turn, and not for a while to one that was away, silent or full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Callable

import numpy as np

from ofa_client.endpoint import Endpoint
from ofa_client.errors import OverloadedError, ServiceUnavailableError, SilentServerError
from ofa_client.transport import InferRequest, Transport

AWAY_SECONDS = 1.0
"""How long a server that was away, or full without saying for how long, gets no request while there are others."""


class Replicas:
    """Round robin over the transports of several endpoints, which are opened at first use."""

    def __init__(self, endpoints: Sequence[Endpoint], connect: Callable[[Endpoint], Transport]) -> None:
        self._endpoints = endpoints
        self._connect = connect
        self._transports: dict[Endpoint, Transport] = {}
        self._aside = dict.fromkeys(endpoints, (False, 0.0))  # whether it was away rather than full, and until when
        self._next = 0
        self._closed = False

    async def infer(self, request: InferRequest, deadline: float) -> dict[str, np.ndarray]:
        """Send to the next server that is neither away nor full; if it turns out to be full, to another.

        Each may take the request's timeout, but not past ``deadline`` (``time.monotonic()``); see
        :meth:`Transport.infer`.

        Raises:
            OverloadedError: no server is left; it is the error of the one that wants to be asked again first.
            RuntimeError: closed, perhaps since this request's last try.
        """
        full: dict[Endpoint, OverloadedError] = {}
        endpoint: Endpoint | None = self._pick()
        while endpoint is not None:
            if self._closed:
                raise RuntimeError("this captioner is closed")
            if endpoint not in self._transports:
                self._transports[endpoint] = self._connect(endpoint)
            try:
                return await self._transports[endpoint].infer(request)
            except ServiceUnavailableError:
                self._aside[endpoint] = (True, time.monotonic() + AWAY_SECONDS)
                raise
            except SilentServerError:  # the next request might lose as much to it
                self._aside[endpoint] = (True, time.monotonic() + max(request.timeout, AWAY_SECONDS))
                raise
            except OverloadedError as error:
                full[endpoint] = error
                now = time.monotonic()
                self._aside[endpoint] = (False, now + _wait(error))
            request = replace(request, timeout=min(request.timeout, max(deadline - now, 1e-3)))
            endpoint = self._next_ready(full)
        raise min(full.values(), key=_wait)

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

    async def close(self) -> None:
        """Close all connections, and open no more."""
        self._closed = True
        transports, self._transports = list(self._transports.values()), {}
        await asyncio.gather(*(transport.close() for transport in transports))


def _wait(error: OverloadedError) -> float:
    """Tell for how many seconds a full server gets no request."""
    return error.retry_after or AWAY_SECONDS
