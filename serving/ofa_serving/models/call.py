"""What a request to the public model asks for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils

from ..admission import Load
from ..contract import CaptionError, Code, Tensor
from ..generation import GenerationConfig
from ..telemetry.origin import Origin, request_id
from ..waiting import PriorityClass
from .triton import deadline


@dataclass(frozen=True)
class Call:
    """A request's contents, taken out of it: Triton's object itself belongs to the responder's thread.

    Attributes:
        image: the tensor, BYTES [b, 1].
        settings: of the search.
        outputs: the tensors the client wants, in the order of the contract.
        request_id: the client's name for the request, perhaps empty.
        origin: its name in the logs, and its span.
        priority: who waits for the answer.
        arrived: when it came, on the monotonic clock.
        until: when it must be answered, on the monotonic clock.
        load: what it weighs.
    """

    image: Any
    settings: GenerationConfig
    outputs: list[str]
    request_id: str
    origin: Origin
    priority: PriorityClass
    arrived: float
    until: float
    load: Load

    @classmethod
    def read(
        cls,
        request: Any,
        parameters: dict[str, Any],
        origin: Origin,
        priority: PriorityClass,
        defaults: GenerationConfig,
        max_seconds: float,
    ) -> Call:
        """Reads a request.

        Args:
            request: Triton's.
            parameters: its own, but for those that told its origin and priority.
            origin: where it comes from.
            priority: who waits for the answer.
            defaults: of the search.
            max_seconds: the longest it may take.

        Raises:
            CaptionError: INVALID_PARAMETER or EMPTY_IMAGE.
        """
        image = pb_utils.get_input_tensor_by_name(request, Tensor.IMAGE)
        if len(image.shape()) < 2:  # Triton takes a batch of none, and hands its tensor over without that dimension
            raise CaptionError(Code.EMPTY_IMAGE, "the request has no image")
        files = image.as_numpy().reshape(-1)
        return cls(
            image=image,
            settings=GenerationConfig.from_request(parameters, defaults),
            outputs=sorted(request.requested_output_names(), key=list(Tensor).index),
            request_id=request_id(request),
            origin=origin,
            priority=priority,
            arrived=time.monotonic(),
            until=deadline(request, max_seconds),
            load=Load(len(files), sum(map(len, files))),
        )
