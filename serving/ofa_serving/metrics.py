"""What the models count and measure, by Prometheus's conventions; nothing here needs Triton.

| name | kind | labels | meaning |
|---|---|---|---|
| ``ofa_requests_total`` | counter | model, priority, code | answers: ``OK``, the contract's code, ``CANCELLED`` |
| ``ofa_request_duration_seconds`` | histogram | model, priority | from arrival to caption, refusals left out |
| ``ofa_stage_duration_seconds`` | histogram | model, stage | an image's time in each stage of ``contract.STAGES`` |
| ``ofa_image_size_bytes`` | histogram | model | the files that arrive |
| ``ofa_canary_total`` | counter | model, code | the probes' requests, which count nowhere else but in the search |
| ``ofa_images_in_flight_limit`` | gauge | model | at how many images in flight one more is refused |
| ``ofa_requests_stuck`` | gauge | model | requests with a stage long after their deadline, and those left unanswered |
| ``ofa_server_restarts_total`` | counter | model | how often the launcher started the failed server again |
| ``ofa_model_start_time_seconds`` | gauge | model | when the model was loaded, Unix time |
| ``ofa_captions_waiting``, ``ofa_captions_searching`` | gauge | model | outside and inside the running beam search |
| ``ofa_search_steps_total`` | counter | model | runs of the decoder |
| ``ofa_search_rows_total`` | counter | model | hypotheses taken one token further: rows ÷ steps is the mean batch |
| ``ofa_search_tokens_total`` | counter | model | captions taken one token further |

``priority`` is the request's class: what waits for its turn behind others is neither late nor refused by mistake.

``ofa_requests_in_flight`` and ``ofa_images_in_flight`` are the public model's own: draining cannot wait for the next
time these are collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .contract import STAGES, Code
from .waiting import PriorityClass

OK = "OK"
CANCELLED = "CANCELLED"
"""In the place of DEADLINE_EXCEEDED for what its client gave up, or gave no more time, within :data:`PATIENCE`.

Here alone: who asked is told what the contract says.
"""

PATIENCE = 2.5
"""Seconds that a client is to wait before it is the server's fault that it stops waiting."""

CANARIES_VARIABLE = "OFA_CANARY_REQUESTS"
"""Environment variable with the request ids of the probes that send the known images, between blanks.

The launcher draws them: a caller could otherwise name its requests so that they count nowhere.
"""

REQUESTS_METRIC = "ofa_requests_total"
STUCK_METRIC = "ofa_requests_stuck"

RESTARTS_VARIABLE = "OFA_SERVER_RESTARTS"
"""Environment variable by which the launcher tells the models how often it has started the server again."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BYTES = tuple(float(2**power) for power in range(12, 26, 2))


def canary_requests(environ: Mapping[str, str]) -> frozenset[str]:
    """The request ids of the probes; none in a server that no launcher started."""
    return frozenset(environ.get(CANARIES_VARIABLE, "").split())


class EntryMetrics:
    """Of the public model. Its methods may be called from any thread."""

    def __init__(self, model: str, max_in_flight: int, environ: Mapping[str, str] = os.environ) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ["model", "priority", "code"]
        self._requests = Counter("ofa_requests", "Requests answered, by code", labels, registry=registry)
        self._canary = Counter("ofa_canary", "Requests of the probes, by code", ["model", "code"], registry=registry)
        durations = Histogram(
            "ofa_request_duration_seconds",
            "From a request's arrival to its caption",
            ["model", "priority"],
            buckets=SECONDS,
            registry=registry,
        )
        self._durations = {priority: durations.labels(model, priority) for priority in PriorityClass}
        stages = Histogram(
            "ofa_stage_duration_seconds",
            "An image's time in a stage",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = [stages.labels(model, stage) for stage in STAGES]
        limit = Gauge("ofa_images_in_flight_limit", "Images in flight at most", ["model"], registry=registry)
        limit.labels(model).set(max_in_flight)
        restarts = Counter("ofa_server_restarts", "Starts after a failure", ["model"], registry=registry)
        restarts.labels(model).inc(int(environ.get(RESTARTS_VARIABLE) or 0))
        stuck = Gauge(STUCK_METRIC, "Requests given up in a stage that hangs", ["model"], registry=registry)
        self._stuck = stuck.labels(model)
        start = Gauge("ofa_model_start_time_seconds", "When the model was loaded", ["model"], registry=registry)
        start.labels(model).set_to_current_time()
        self._model, self._probes = model, canary_requests(environ)
        for code in (OK, CANCELLED, *Code):  # so that a rate has a beginning
            self._canary.labels(model, code)
            for priority in PriorityClass:
                self._requests.labels(model, priority, code)

    def answered(self, request_id: str, code: str, seconds: float, priority: PriorityClass) -> None:
        """Counts an answer: ``OK`` or a refusal's code, how long it took, and the class of the request."""
        if request_id in self._probes:
            self._canary.labels(self._model, code).inc()
            return
        given_up = code == Code.DEADLINE_EXCEEDED and seconds < PATIENCE
        self._requests.labels(self._model, priority, CANCELLED if given_up else code).inc()
        if code == OK:
            self._durations[priority].observe(seconds)

    def stuck(self, count: int) -> None:
        """Takes the number of requests that a stage has not answered long after they were given up."""
        self._stuck.set(count)

    def staged(self, request_id: str, timing_ms: Iterable[Iterable[float]]) -> None:
        """Takes the rows of ``timing_ms``, one an image."""
        if request_id in self._probes:
            return
        for row in timing_ms:
            for stage, milliseconds in zip(self._stages, row, strict=True):
                stage.observe(milliseconds / 1e3)


class ImageMetrics:
    """Of the images as they arrive."""

    def __init__(self, model: str, environ: Mapping[str, str] = os.environ) -> None:
        self.registry, self._probes = CollectorRegistry(), canary_requests(environ)
        self._bytes = Histogram(
            "ofa_image_size_bytes", "Image files", ["model"], buckets=BYTES, registry=self.registry
        ).labels(model)

    def received(self, request_id: str, size: int) -> None:
        """Counts an image file of ``size`` bytes."""
        if request_id in self._probes:
            return
        self._bytes.observe(size)


class Search(Protocol):
    """What a beam search counts by itself; read as it is when the metrics are collected."""

    waiting: int
    searching: int
    steps: int
    rows: int
    tokens: int


class SearchMetrics(Collector):
    """Of the beam search, read from its scheduler, so that a step costs nothing more than its own counting."""

    def __init__(self, model: str, search: Search) -> None:
        self._model, self._search = model, search
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        search = self._search
        for name, text, value in (
            ("ofa_captions_waiting", "Captions that are encoded and wait to join the beam search", search.waiting),
            ("ofa_captions_searching", "Captions in the running beam search", search.searching),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, text, value in (
            ("ofa_search_steps", "Runs of the decoder", search.steps),
            ("ofa_search_rows", "Hypotheses taken one token further", search.rows),
            ("ofa_search_tokens", "Captions taken one token further", search.tokens),
        ):
            counter = CounterMetricFamily(name, text, labels=["model"])
            counter.add_metric([self._model], value)
            yield counter
