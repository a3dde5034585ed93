"""The public model: takes each request through the stages, by Triton's business logic scripting (BLS).

An ensemble would do the same wiring, but in Triton 2.51 it puts its own words before an error's code, has every output
computed whether or not a client asked for it, and does not pass a client's cancel on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..admission import Admission
from ..cancellation import SLOT_PARAMETER, CancelFlags
from ..contract import PRIORITY_CLASS, STAGES, STATES_ON_GPU, CaptionError, Names, Tensor
from ..draining import IN_FLIGHT_METRIC
from ..generation import GenerationConfig
from ..metrics import EntryMetrics
from ..stage_key import StageKey
from ..telemetry.logs import configure_logs
from ..telemetry.origin import TRACE_PARAMETER, Origin, request_id
from ..telemetry.requests import RequestLog
from ..telemetry.spans import Spans, open_spans
from ..waiting import PriorityClass, Room, WaitingLine
from .call import Call
from .publishing import Publisher
from .responder import Flight, Responder
from .triton import Gauge, Settings, fault, raise_refusal, refusal, request_parameters, send

_ANY_ROOM = nullcontext()


class EntryModel:
    """One instance. Requests wait in line for one of its threads, each of which takes one through the stages."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the checkpoint's generation defaults and the limits."""
        settings = Settings(args)
        self._names, self._key = Names(settings.name), StageKey()
        self._states_on_gpu = settings.has(STATES_ON_GPU)
        defaults = {name: settings.text(name) for name in asdict(GenerationConfig())}
        self._defaults = GenerationConfig.from_request(defaults, GenerationConfig())
        self._max_seconds, self._encoder_batch = settings.integer("max_seconds"), settings.integer("encoder_batch")
        max_in_flight = settings.integer("max_in_flight")
        self._requests = Gauge(IN_FLIGHT_METRIC, "Requests that are being answered", settings.name)
        self._images = Gauge("ofa_images_in_flight", "Images of those requests", settings.name)
        self._admission = Admission(
            max_in_flight,
            settings.integer("max_in_flight_bytes"),
            self._max_seconds,
            at_once=self._encoder_batch,
            changed=self._count,
        )
        self._free_slots = deque(range(max_in_flight))
        threads = settings.integer("max_running")
        self._line: WaitingLine[Flight] = WaitingLine(threads)
        self._encoder_room = Room(2 * self._encoder_batch)  # one run, and the next is at hand when it ends
        self._metrics = EntryMetrics(settings.name, max_in_flight)
        self._publisher = Publisher(self._metrics.registry)
        configure_logs()
        self._log, self._spans = RequestLog(settings.name), open_spans(settings.name)
        self._responder = Responder(
            CancelFlags.open(self._names.beam_search),
            withdraw=self._line.withdraw,
            answered=self._answered,
            ended=self._ended,
            stuck=self._metrics.stuck,
            stuck_seconds=self._max_seconds,
        )
        self._threads = [threading.Thread(target=self._work, name="request", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Admits every request there is room for and returns at once; the others are refused at once."""
        for request in requests:
            origin, priority = Origin.unknown(), PriorityClass.INTERACTIVE
            try:
                parameters = request_parameters(request)
                origin = Origin.take(request, parameters, self._spans.wanted)
                priority = PriorityClass.take(parameters)
                call = Call.read(request, parameters, origin, priority, self._defaults, self._max_seconds)
                self._admission.enter(call.load, priority, call.until - time.monotonic())
            except CaptionError as error:
                self._refuse(request, origin, priority, error)
            except Exception:
                self._refuse(request, origin, priority, fault(self._names.public))
            else:
                flight = Flight(request, request.get_response_sender(), call, self._free_slots.pop())
                self._responder.expect(flight)
                self._line.put(flight, priority)

    def finalize(self) -> None:
        """Answers what is in flight."""
        self._line.close()
        for thread in self._threads:
            thread.join()
        self._responder.close()
        self._publisher.close()
        self._spans.close()

    def _count(self, requests: int, images: int) -> None:
        self._images.set(images)
        self._requests.set(requests)

    def _refuse(self, request: Any, origin: Origin, priority: PriorityClass, error: CaptionError) -> None:
        self._metrics.answered(request_id(request), error.code, 0, priority)
        self._log.answered(origin.request_id, error.code, 0, reason=error.message)
        send(request.get_response_sender(), refusal(error))

    def _answered(self, flight: Flight, code: str, reason: str) -> None:
        call = flight.call
        seconds = time.monotonic() - call.arrived
        self._metrics.answered(call.request_id, code, seconds, call.priority)
        fields = {"reason": reason} if reason else {"stage_ms": flight.stage_ms}
        self._log.answered(
            call.origin.request_id, code, seconds, images=call.load.images, bytes=call.load.bytes, **fields
        )

    def _ended(self, flight: Flight) -> None:
        self._free_slots.append(flight.slot)
        call = flight.call
        self._admission.leave(call.load, time.monotonic() - call.arrived, captioned=flight.stage_ms is not None)

    def _work(self) -> None:
        while (flight := self._line.take()) is not None:
            try:
                outcome = self._caption(flight)
            except CaptionError as error:
                outcome = error
            except Exception:
                outcome = fault(self._names.public)
            self._responder.answer(flight, outcome)
            self._line.done(flight.call.priority)
            del flight, outcome  # they hold shared memory

    def _caption(self, flight: Flight) -> Any:
        call, stages = flight.call, _Stages(flight, self._spans, self._key)
        in_line_ms = (time.monotonic() - call.arrived) * 1e3
        slot = {SLOT_PARAMETER: flight.slot}
        decoded = [Tensor.PIXELS, Tensor.PREPROCESS_MS]
        pixels, decoding = stages.call(self._names.preprocess, call.image, decoded, slot)
        hidden = self._encode(stages, flight, pixels)
        results = [name for name in call.outputs if name != Tensor.TIMING] + [Tensor.SEARCH_MS]
        parameters = {name: _decimal(value) for name, value in asdict(call.settings).items()}
        parameters |= {PRIORITY_CLASS: call.priority.value, **slot}
        *tensors, searching = stages.call(self._names.beam_search, hidden, results, parameters)
        timing = _timing(in_line_ms, stages, decoding.as_numpy(), searching.as_numpy())
        self._metrics.staged(call.request_id, timing.tolist())
        flight.stage_ms = dict(zip(STAGES, timing.max(axis=0).round(1).tolist(), strict=True))
        if Tensor.TIMING in call.outputs:
            tensors.append(pb_utils.Tensor(Tensor.TIMING, timing))
        return pb_utils.InferenceResponse(tensors)

    def _encode(self, stages: _Stages, flight: Flight, pixels: Any) -> Any:
        """Many images in as many runs as it takes: those of other requests come in between."""
        call, size = flight.call, self._encoder_batch

        def run(part: Any, images: int, on_gpu: bool = False) -> Any:
            room = self._encoder_room.taken(images, call.priority, flight.check)
            return stages.call(self._names.encoder, part, [Tensor.HIDDEN], on_gpu=on_gpu, room=room)[0]

        if call.load.images <= size:
            return run(pixels, call.load.images, self._states_on_gpu)
        every, hidden = pixels.as_numpy(), []
        for start in range(0, len(every), size):
            part = every[start : start + size]
            states = run(pb_utils.Tensor(Tensor.PIXELS, part), len(part))
            hidden.append(states.as_numpy().copy())  # out of shared memory
        return pb_utils.Tensor(Tensor.HIDDEN, np.concatenate(hidden))


class _Stages:
    """Calls the stages of one request in turn, as long as somebody waits for it, and times them."""

    def __init__(self, flight: Flight, spans: Spans, key: StageKey) -> None:
        self._flight, self._spans, self._key = flight, spans, key
        self.elapsed_ms: Counter[str] = Counter()  # by model

    def call(
        self,
        model: str,
        tensor: Any,
        outputs: list[str],
        parameters: Mapping[str, str | int] | None = None,
        on_gpu: bool = False,
        room: AbstractContextManager[None] = _ANY_ROOM,
    ) -> list[Any]:
        """The stage's output tensors, in the order asked for; on the first GPU if they may stay on one.

        The call is made once there is ``room`` for it; the wait counts as the stage's time.

        Raises:
            CaptionError: the stage's refusal, or DEADLINE_EXCEEDED.
        """
        self._flight.check()
        started = time.monotonic()
        call = self._flight.call
        origin = call.origin
        with self._spans.within(model, origin.traceparent) as span, room:
            response = pb_utils.InferenceRequest(
                model_name=model,
                inputs=[tensor],
                requested_output_names=outputs,
                request_id=origin.request_id,
                timeout=max(1, int((call.until - time.monotonic()) * 1e6)),
                parameters={**self._key.parameters, **(parameters or {}), **({TRACE_PARAMETER: span} if span else {})},
                **({"preferred_memory": _first_gpu()} if on_gpu else {}),
            ).exec()
            if response.has_error():
                raise_refusal(response.error().message(), model)
        self.elapsed_ms[model] += (time.monotonic() - started) * 1e3
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]


def _first_gpu() -> Any:
    return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 0)


def _timing(in_line_ms: float, stages: _Stages, decoding: np.ndarray, searching: np.ndarray) -> np.ndarray:
    """``timing_ms`` FP32 [b, k] in the order of ``contract.STAGES``; what a call took beyond its work was waiting."""
    preprocess, encode, _ = stages.elapsed_ms.values()
    waited = np.full_like(decoding, in_line_ms + max(preprocess - float(decoding.max()), 0))
    return np.hstack([waited, decoding, np.full_like(decoding, encode), searching])


def _decimal(value: float) -> str:
    """A number as the request parameters take it: decimal, every digit."""
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="0")
