"""The two ways to a server behind one interface."""

from __future__ import annotations

from ofa_client.endpoint import Endpoint
from ofa_client.transport.base import InferRequest, Transport

__all__ = ["InferRequest", "Transport", "transport_class"]


def transport_class(endpoint: Endpoint) -> type[Transport]:
    """Load the endpoint's protocol; it takes a good part of a second, so not while requests wait."""
    if endpoint.uses_grpc:
        from ofa_client.transport.grpc import GrpcTransport  # noqa: PLC0415 - loads only the protocol in use

        return GrpcTransport
    from ofa_client.transport.http import HttpTransport  # noqa: PLC0415 - loads only the protocol in use

    return HttpTransport
