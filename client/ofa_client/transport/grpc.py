"""Captions over gRPC."""

from __future__ import annotations

from os import PathLike, fspath

import numpy as np
import tritonclient.grpc as protocol
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ofa_client.endpoint import Endpoint
from ofa_client.transport.base import InferRequest, Transport, infer_arguments, read_tensors
from ofa_client.transport.refusals import deadline_exceeded, refusal

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it tries a lost server again: too long for one that was restarted.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class GrpcTransport(Transport):
    """One gRPC channel, shared by all requests."""

    def __init__(self, endpoint: Endpoint, ca_file: str | PathLike[str] | None = None) -> None:
        self._server = str(endpoint)
        self._client = InferenceServerClient(
            endpoint.address,
            ssl=endpoint.secure,
            root_certificates=fspath(ca_file) if ca_file is not None else None,
            channel_args=_CHANNEL_OPTIONS,
        )

    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """See :class:`~ofa_client.transport.base.Transport`; the deadline travels in the call as well."""
        try:
            arguments = infer_arguments(protocol, request)
            result = await self._client.infer(**arguments, client_timeout=request.timeout)
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise deadline_exceeded(request, self._server) from error
            raise refusal(error.status(), error.message(), self._server) from error
        return read_tensors(result, request)

    async def close(self) -> None:
        """Close the channel; requests in flight are cancelled."""
        await self._client.close()
