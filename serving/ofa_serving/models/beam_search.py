"""``hidden`` FP32 [b, N, d] to captions, by one in-flight batched beam search for all requests.

Requests are answered out of order, by their response senders, each as soon as its captions are complete. Triton sees
an idle model, so the queue is bounded here and its depth is a metric of ours.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..contract import CaptionError, Tensor
from ..engines.loading import load_decoder
from ..generation import GenerationConfig
from ..metrics import SearchMetrics
from ..outputs import output_tensors
from ..scheduler import Job, Scheduler, SearchResult
from ..tokenizer import Tokenizer
from .publishing import Publisher
from .triton import Settings, deadline, fault, refusal, request_parameters, send, tensor


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
            load_decoder(settings.text("engine"), folder, settings.integer("threads"), settings.text("precision")),
            self._tokenizer.special,
            max_captions=settings.integer("max_captions"),
            max_pending=settings.integer("max_pending"),
        )
        self._publisher = Publisher(SearchMetrics(self._name, self._scheduler).registry)
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

    def _submit(self, request: Any, sender: Any) -> None:
        settings = GenerationConfig.from_request(request_parameters(request), GenerationConfig())
        hidden = tensor(request, Tensor.HIDDEN)
        answer = _Answer(request, sender, settings.num_captions, len(hidden), self._complete.put)
        until = deadline(request, self._max_seconds)
        self._scheduler.submit(
            [Job(states, settings, until, answer.receiver(index)) for index, states in enumerate(hidden)]
        )

    def _respond(self) -> None:
        """Answers in a thread of its own, so that the search waits neither for text nor for Triton."""
        while (answer := self._complete.get()) is not None:
            try:
                response = self._response(answer)
            except CaptionError as error:
                response = refusal(error)
            except Exception:
                response = refusal(fault(self._name))
            send(answer.sender, response)
            del answer, response  # they hold shared memory

    def _response(self, answer: _Answer) -> Any:
        for result in answer.results:
            if isinstance(result, CaptionError):
                raise result
        wanted = answer.request.requested_output_names()
        tensors = output_tensors(answer.results, answer.num_captions, wanted, self._tokenizer)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in tensors.items()])


class _Answer:
    """One request's results as they come in; passed on when the last is there."""

    def __init__(
        self, request: Any, sender: Any, num_captions: int, images: int, complete: Callable[[_Answer], None]
    ) -> None:
        self.request, self.sender, self.num_captions = request, sender, num_captions
        self.results: list[SearchResult | CaptionError | None] = [None] * images
        self._missing, self._complete = images, complete

    def receiver(self, index: int) -> Callable[[SearchResult | CaptionError], None]:
        """Takes the result of one image; called from the scheduler's thread only."""

        def receive(result: SearchResult | CaptionError) -> None:
            self.results[index] = result
            self._missing -= 1
            if not self._missing:
                self._complete(self)

        return receive
