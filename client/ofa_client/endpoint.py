"""Where the server is: ``grpc://host:port``, ``http://host:port``, and ``grpcs://`` and ``https://`` for TLS."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}


@dataclass(frozen=True)
class Endpoint:
    """A server's address, taken apart."""

    scheme: str
    address: str
    """``host:port``, for HTTP with the base path of a server behind a proxy."""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Take a URL apart; without a port it is Triton's own, or 443 with TLS.

        Raises:
            ValueError: another scheme, no host, or parts that have no meaning here.
        """
        malformed = f"the server's address must look like grpc://host:8001 or http://host:8000, not {url!r}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(malformed) from error
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
            raise ValueError(malformed)
        path = parts.path.rstrip("/")
        if parts.query or parts.fragment or "@" in parts.netloc or (path and parts.scheme.startswith("grpc")):
            raise ValueError(f"the server's address has more than scheme, host and port: {url!r}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(parts.scheme, f"{host}:{port or _DEFAULT_PORTS[parts.scheme]}{path}")

    @property
    def uses_grpc(self) -> bool:
        """Whether the protocol is gRPC, else HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted with TLS."""
        return self.scheme in ("grpcs", "https")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"
