"""Several servers as one: requests go to them in turn, and not for a while to one that was away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Callable

import numpy as np

from ofa_client.endpoint import Endpoint
from ofa_client.errors import ServiceUnavailableError
from ofa_client.transport import InferRequest, Transport

AWAY_SECONDS = 1.0
"""How long a server that could not be reached gets no request while there are others."""


class Replicas:
    """Round robin over the transports of several endpoints, which are opened at first use."""

    def __init__(self, endpoints: Sequence[Endpoint], connect: Callable[[Endpoint], Transport]) -> None:
        self._endpoints = endpoints
        self._connect = connect
        self._transports: dict[Endpoint, Transport] = {}
        self._back_at = dict.fromkeys(endpoints, 0.0)
        self._next = 0

    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """Send to the next server that is not away; see :meth:`Transport.infer`."""
        endpoint = self._pick()
        if endpoint not in self._transports:
            self._transports[endpoint] = self._connect(endpoint)
        try:
            return await self._transports[endpoint].infer(request)
        except ServiceUnavailableError:
            self._back_at[endpoint] = time.monotonic() + AWAY_SECONDS
            raise

    def _pick(self) -> Endpoint:
        """Take the next in turn; if all are away, the one whose time is over first."""
        now = time.monotonic()
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            if self._back_at[endpoint] <= now:
                return endpoint
        return min(self._endpoints, key=self._back_at.__getitem__)

    async def close(self) -> None:
        """Close all connections."""
        transports, self._transports = list(self._transports.values()), {}
        await asyncio.gather(*(transport.close() for transport in transports))
