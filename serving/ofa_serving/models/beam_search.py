"""``hidden`` [b, N, d] to captions, by one in-flight batched beam search for all requests.

Requests are answered out of order, by their response senders, each as soon as its captions are complete. Triton sees
an idle model, so the queue is bounded here and its depth is a metric of ours.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..cancellation import SLOT_PARAMETER, CancelFlags
from ..contract import CaptionError, Tensor
from ..engines.loading import load_decoder
from ..generation import GenerationConfig
from ..metrics import SearchMetrics
from ..outputs import output_tensors
from ..scheduler import Job, Scheduler, SearchResult
from ..stage_key import StageKey
from ..telemetry.logs import configure_logs
from ..telemetry.origin import TRACE_PARAMETER
from ..telemetry.requests import RequestLog
from ..telemetry.spans import open_spans
from ..tokenizer import Tokenizer
from ..waiting import PriorityClass
from .publishing import Publisher
from .triton import Settings, deadline, fault, refusal, request_parameters, send, states


class BeamSearchModel:
    """One instance holds the decoder engine, its caches and the scheduler's thread."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the engine and the vocabulary."""
        settings = Settings(args)
        folder = Path(settings.folder)
        self._name = settings.name
        self._max_seconds = settings.integer("max_seconds")
        self._tokenizer = Tokenizer.load(folder, settings.text("language"))
        self._scheduler = Scheduler(
            load_decoder(settings.engine(), folder),
            self._tokenizer.special,
            max_captions=settings.integer("max_captions"),
            max_pending=settings.integer("max_pending"),
        )
        self._publisher = Publisher(SearchMetrics(self._name, self._scheduler).registry)
        configure_logs()
        self._log, self._spans = RequestLog(self._name), open_spans(self._name)
        self._flags, self._key = CancelFlags.open(self._name), StageKey()
        self._complete: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._responder = threading.Thread(target=self._respond, name="responder", daemon=True)
        self._responder.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Submits every request and returns at once."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except CaptionError as error:
                send(sender, refusal(error))
            except Exception:
                send(sender, refusal(fault(self._name)))

    def finalize(self) -> None:
        """Finishes the captions in flight."""
        self._scheduler.close()
        self._complete.put(None)
        self._responder.join()
        self._publisher.close()
        self._spans.close()

    def _submit(self, request: Any, sender: Any) -> None:
        parameters = request_parameters(request)
        self._key.demand(parameters)
        cancelled = self._flags.cancelled(parameters.pop(SLOT_PARAMETER, None))
        parent = parameters.pop(TRACE_PARAMETER, None)
        priority = PriorityClass.take(parameters)
        settings = GenerationConfig.from_request(parameters, GenerationConfig())
        hidden = states(request, Tensor.HIDDEN)
        answer = _Answer(request, sender, settings, parent, len(hidden), self._complete.put)
        until = deadline(request, self._max_seconds)
        self._scheduler.submit(
            [
                Job(image, settings, until, answer.receiver(index), cancelled, priority)
                for index, image in enumerate(hidden)
            ]
        )

    def _respond(self) -> None:
        """Answers in a thread of its own, so that the search waits neither for text nor for Triton."""
        while (answer := self._complete.get()) is not None:
            try:
                self._answer(answer)
            except Exception:  # the others still have to be answered
                fault(self._name)
            del answer  # it holds shared memory

    def _answer(self, answer: _Answer) -> None:
        # It is not raised: its traceback would hold the request, in shared memory, until garbage is collected.
        refused = next((result for result in answer.results if isinstance(result, CaptionError)), None)
        if refused is not None:
            send(answer.sender, refusal(refused))
            return
        try:
            response = self._response(answer)
            self._tell(answer)
        except Exception:
            response = refusal(fault(self._name))
        send(answer.sender, response)

    def _response(self, answer: _Answer) -> Any:
        wanted = answer.request.requested_output_names()
        tensors = output_tensors(answer.results, answer.settings.num_captions, wanted, self._tokenizer)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in tensors.items()])

    def _tell(self, answer: _Answer) -> None:
        """Of the image that took longest."""
        if not self._log.every_stage and answer.parent is None:
            return
        slowest = max(answer.results, key=lambda result: result.queue_ms + result.search_ms)
        ended = answer.completed
        joined = ended - slowest.search_ms / 1e3
        size, tokens = answer.settings.beam_size, len(slowest.hypotheses[0].tokens) if slowest.hypotheses else 0
        self._spans.record("wait for the search", answer.parent, joined - slowest.queue_ms / 1e3, joined)
        self._spans.record("search", answer.parent, joined, ended, beam_size=size, tokens=tokens)
        self._log.stage(
            "searched",
            answer.request.request_id(),
            beam_size=size,
            tokens=tokens,
            waited_ms=round(slowest.queue_ms, 1),
            milliseconds=round(slowest.search_ms, 1),
        )


class _Answer:
    """One request's results as they come in; passed on when the last is there."""

    def __init__(
        self,
        request: Any,
        sender: Any,
        settings: GenerationConfig,
        parent: str | None,
        images: int,
        complete: Callable[[_Answer], None],
    ) -> None:
        self.request, self.sender, self.settings, self.parent = request, sender, settings, parent
        self.completed = 0.0
        self.results: list[SearchResult | CaptionError | None] = [None] * images
        self._missing, self._complete = images, complete

    def receiver(self, index: int) -> Callable[[SearchResult | CaptionError], None]:
        """Takes the result of one image; called from the scheduler's thread only."""

        def receive(result: SearchResult | CaptionError) -> None:
            self.results[index] = result
            self._missing -= 1
            if not self._missing:
                self.completed = time.monotonic()
                self._complete(self)

        return receive
