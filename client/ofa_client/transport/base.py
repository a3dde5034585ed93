"""What a transport does, and what gRPC and HTTP share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_client import contract
from ofa_client.connection import ConnectionSettings
from ofa_client.endpoint import Endpoint
from ofa_client.errors import UnexpectedResponseError

CALL_SECONDS = 5.0
"""How long a call about shared memory may take."""

SHARED_MEMORY_HEADER = "ofa-shared-memory-key"
"""What Triton asks for in those calls; the launcher's ``--shared-memory-key`` sets its value."""


@dataclass(frozen=True)
class SharedImage:
    """An image in a region of shared memory that the server has registered; see :mod:`ofa_client.shared_memory`."""

    region: str
    byte_size: int


@dataclass(frozen=True)
class InferRequest:
    """One image for the server."""

    model: str
    image: bytes | SharedImage
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]
    timeout: float
    """Seconds until the answer must be there."""

    @property
    def timeout_us(self) -> int:
        """The timeout in Triton's request field, by which the server stops working on the image.

        It ends a little earlier, so that the refusal of a server that is only slow is here in time.
        """
        return max(1, int((self.timeout - min(self.timeout / 20, 1.0)) * 1e6))


class Transport(ABC):
    """Sends requests over one protocol. Bound to the event loop that runs when it is made."""

    @abstractmethod
    def __init__(self, endpoint: Endpoint, settings: ConnectionSettings) -> None: ...

    @abstractmethod
    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """Return the requested tensors, batch dimension first; raises only the errors of ``ofa_client.errors``."""

    @abstractmethod
    async def call(self, method: str, *arguments: object) -> Any:
        """Call one of tritonclient's methods about shared memory, with the key for it; raises what ``infer`` does."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""


def infer_arguments(protocol: Any, request: InferRequest) -> dict[str, Any]:
    """Build what ``infer`` of both protocols takes; ``protocol`` is ``tritonclient.grpc`` or ``tritonclient.http``."""
    tensor = protocol.InferInput(contract.IMAGE, [1, 1], "BYTES")
    if isinstance(request.image, SharedImage):
        tensor.set_shared_memory(request.image.region, request.image.byte_size)
    else:
        tensor.set_data_from_numpy(np.array([[request.image]], dtype=np.object_))
    return {
        "model_name": request.model,
        "inputs": [tensor],
        "outputs": [protocol.InferRequestedOutput(name) for name in request.outputs],
        "parameters": dict(request.parameters),
        "timeout": request.timeout_us,
    }


def read_tensors(result: Any, request: InferRequest) -> dict[str, np.ndarray]:
    """Take the requested tensors out of either protocol's ``InferResult``.

    Raises:
        UnexpectedResponseError: one is missing or malformed.
    """
    try:
        tensors = {name: result.as_numpy(name) for name in request.outputs}
    except Exception as error:  # a malformed answer fails in many ways inside tritonclient
        raise UnexpectedResponseError(f"the answer cannot be read ({type(error).__name__})") from error
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise UnexpectedResponseError(f"the answer lacks {', '.join(missing)}")
    return tensors
