"""Where this machine's clients reach the server, and how: by no proxy, for those are for other machines.

Containers are often given ``http_proxy`` without a ``no_proxy`` that spares loopback.
"""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from ofa_serving.launcher.settings import Ports

open_directly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""``urllib.request.urlopen`` by no proxy."""

CHANNEL_ARGS = [("grpc.enable_http_proxy", 0)]
"""Of a gRPC channel by no proxy."""


@dataclass(frozen=True)
class Endpoints:
    """Where this machine's clients reach the server."""

    host: str
    ports: Ports

    @property
    def http(self) -> str:
        """The HTTP endpoint's URL."""
        return f"http://{self.host}:{self.ports.http}"

    @property
    def grpc(self) -> str:
        """The gRPC endpoint as host:port, as gRPC's clients take it."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def metrics(self) -> str:
        """The metrics' URL."""
        return f"http://{self.host}:{self.ports.metrics}/metrics"
