"""The public model: takes each request through the stages, by Triton's business logic scripting (BLS).

An ensemble would do the same wiring, but in Triton 2.51 it puts its own words before an error's code, has every output
computed whether or not a client asked for it, and does not pass a client's cancel on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..contract import CaptionError, Code, Names, Tensor
from ..generation import GenerationConfig
from ..metrics import OK, EntryMetrics
from .admission import Admission
from .publishing import Publisher
from .triton import Settings, deadline, fault, raise_refusal, refusal, request_parameters, send


class EntryModel:
    """One instance; each request in flight has a thread, which mostly waits for the stages."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the checkpoint's generation defaults and the limits."""
        settings = Settings(args)
        self._names = Names(settings.name)
        defaults = {name: settings.text(name) for name in asdict(GenerationConfig())}
        self._defaults = GenerationConfig.from_request(defaults, GenerationConfig())
        self._max_seconds = settings.integer("max_seconds")
        max_in_flight = settings.integer("max_in_flight")
        self._admission = Admission(settings.name, max_in_flight)
        self._metrics = EntryMetrics(settings.name, max_in_flight)
        self._publisher = Publisher(self._metrics.registry)
        self._pool = ThreadPoolExecutor(max_in_flight, "request")

    def execute(self, requests: Sequence[Any]) -> None:
        """Starts every request there is room for and returns at once; the others are refused at once."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._admission.enter()
            except CaptionError as error:
                send(sender, refusal(error))
                self._metrics.answered(request.request_id(), error.code, 0)
            else:
                self._pool.submit(self._answer, request, sender)

    def finalize(self) -> None:
        """Answers what is in flight."""
        self._pool.shutdown()
        self._publisher.close()

    def _answer(self, request: Any, sender: Any) -> None:
        arrived, code = time.monotonic(), OK
        try:
            response = self._caption(request)
        except CaptionError as error:
            response, code = refusal(error), error.code
        except Exception:
            response, code = refusal(fault(self._names.public)), Code.INTERNAL
        try:
            send(sender, response)
        finally:
            self._metrics.answered(request.request_id(), code, time.monotonic() - arrived)
            self._admission.leave()

    def _caption(self, request: Any) -> Any:
        settings = GenerationConfig.from_request(request_parameters(request), self._defaults)
        stages = _Stages(request, deadline(request, self._max_seconds))
        wanted = request.requested_output_names()

        image = pb_utils.get_input_tensor_by_name(request, Tensor.IMAGE)
        pixels, decoding = stages.call(self._names.preprocess, image, [Tensor.PIXELS, Tensor.PREPROCESS_MS])
        (hidden,) = stages.call(self._names.encoder, pixels, [Tensor.HIDDEN])
        results = [name for name in wanted if name != Tensor.TIMING] + [Tensor.SEARCH_MS]
        parameters = {name: _decimal(value) for name, value in asdict(settings).items()}
        *tensors, searching = stages.call(self._names.beam_search, hidden, results, parameters)
        timing = _timing(stages, decoding.as_numpy(), searching.as_numpy())
        self._metrics.staged(timing.tolist())
        if Tensor.TIMING in wanted:
            tensors.append(pb_utils.Tensor(Tensor.TIMING, timing))
        return pb_utils.InferenceResponse(tensors)


class _Stages:
    """Calls the stages of one request in turn, under its deadline, and times them."""

    def __init__(self, request: Any, until: float) -> None:
        self._request_id, self._until = request.request_id(), until
        self.elapsed_ms: list[float] = []

    def call(
        self, model: str, tensor: Any, outputs: list[str], parameters: Mapping[str, str] | None = None
    ) -> list[Any]:
        """The stage's output tensors, in the order asked for.

        Raises:
            CaptionError: the stage's refusal, or DEADLINE_EXCEEDED.
        """
        started = time.monotonic()
        remaining = self._until - started
        if remaining <= 0:
            raise CaptionError(Code.DEADLINE_EXCEEDED, "the deadline passed before the caption was complete")
        response = pb_utils.InferenceRequest(
            model_name=model,
            inputs=[tensor],
            requested_output_names=outputs,
            request_id=self._request_id,
            timeout=int(remaining * 1e6),
            parameters=dict(parameters or {}),
        ).exec()
        if response.has_error():
            raise_refusal(response.error().message(), model)
        self.elapsed_ms.append((time.monotonic() - started) * 1e3)
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]


def _timing(stages: _Stages, decoding: np.ndarray, searching: np.ndarray) -> np.ndarray:
    """``timing_ms`` FP32 [b, k] in the order of ``contract.STAGES``; what a call took beyond its work was waiting."""
    preprocess, encode, _ = stages.elapsed_ms
    waited = np.full_like(decoding, max(preprocess - float(decoding.max()), 0))
    return np.hstack([waited, decoding, np.full_like(decoding, encode), searching])


def _decimal(value: float) -> str:
    """A number as the request parameters take it: decimal, every digit."""
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="0")
