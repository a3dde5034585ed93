"""Captions over gRPC."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tritonclient.grpc as protocol
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ofa_client.connection import ConnectionSettings
from ofa_client.endpoint import Endpoint
from ofa_client.transport.base import (
    CALL_SECONDS,
    SHARED_MEMORY_HEADER,
    InferRequest,
    Transport,
    infer_arguments,
    read_tensors,
)
from ofa_client.transport.refusals import deadline_exceeded, refusal

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it tries a lost server again: too long for one that was restarted.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A name with several addresses, such as a headless Kubernetes service, is all of them in turn.
    ("grpc.service_config", _ROUND_ROBIN),
    ("grpc.enable_retries", 0),  # ofa_client.retry knows what is safe
    ("grpc.enable_http_proxy", 0),  # HTTP does not go by http_proxy either, which few mean for a server on loopback
]


class GrpcTransport(Transport):
    """One gRPC channel, shared by all requests."""

    def __init__(self, endpoint: Endpoint, settings: ConnectionSettings) -> None:
        self._server = str(endpoint)
        self._headers = settings.headers
        self._key = settings.shared_memory_key
        self._client = InferenceServerClient(
            endpoint.address,
            ssl=endpoint.secure,
            root_certificates=settings.ca_file,
            certificate_chain=settings.cert_file,
            private_key=settings.key_file,
            channel_args=[*_CHANNEL_OPTIONS, *_keep_alive(settings.keep_alive)],
        )

    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """See :class:`~ofa_client.transport.base.Transport`; the deadline travels in the call as well."""
        try:
            arguments = infer_arguments(protocol, request)
            result = await self._client.infer(**arguments, headers=dict(self._headers), client_timeout=request.timeout)
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise deadline_exceeded(request, self._server) from error
            raise refusal(error.status(), error.message(), self._server) from error
        return read_tensors(result, request)

    async def call(self, method: str, *arguments: object) -> Any:
        """See :class:`~ofa_client.transport.base.Transport`."""
        headers = {**self._headers, f"triton-grpc-protocol-{SHARED_MEMORY_HEADER}": self._key}
        try:
            return await getattr(self._client, method)(*arguments, headers=headers, client_timeout=CALL_SECONDS)
        except InferenceServerException as error:
            raise refusal(error.status(), error.message(), self._server) from error

    async def close(self) -> None:
        """Close the channel; requests in flight are cancelled."""
        await self._client.close()


def _keep_alive(seconds: float | None) -> list[tuple[str, int]]:
    """Ping a silent server after so many seconds, so that a connection that died without a word is noticed."""
    if seconds is None:
        return []
    milliseconds = int(seconds * 1000)
    answer = min(milliseconds, 20_000)
    return [
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", answer),
        ("grpc.http2.ping_timeout_ms", answer),  # newer versions go by this one, a minute by default
        ("grpc.http2.max_pings_without_data", 0),
    ]
