"""Spans of the Python stages, beside those that Triton's own trace mode sends to the same collector (OTLP over HTTP).

Triton decides which requests are traced, but for those whose caller's trace it misread (see Origin). Its span of the
public model is the parent of the stages' here, or else the caller's. Calls between models do not carry Triton's trace
object: it dies with the request, which may be refused for its deadline while a stage still works on it, and Triton 2.51
does not survive that. So a stage is told its parent by a parameter.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .origin import TRACE_PARAMETER

URL_VARIABLE = "OFA_TRACE_URL"
"""Environment variable with the collector's address, as the launcher was given it."""

SERVICE = "ofa-caption"
"""``service.name`` of every span, Triton's own too."""

_EXPORT_SECONDS = 2
_LATE_SECONDS = 1.0


class Spans(Protocol):
    """Opens and records spans; every call without a parent does nothing.

    Attributes:
        wanted: whether any request may be traced; if not, its parent need not be looked for.
    """

    wanted: bool

    def within(self, name: str, parent: str | None) -> contextlib.AbstractContextManager[str | None]:
        """A span around the context; gives what a callee needs as its parent."""

    def record(self, name: str, parent: str | None, begin: float, end: float, **attributes: object) -> None:
        """A span of the past, between two times of the monotonic clock."""

    def close(self) -> None:
        """Sends what is left."""


class NoSpans:
    """For a server that is not traced."""

    wanted = False

    def within(self, name: str, parent: str | None) -> contextlib.AbstractContextManager[str | None]:
        """Nothing."""
        return contextlib.nullcontext()

    def record(self, name: str, parent: str | None, begin: float, end: float, **attributes: object) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class ExportedSpans:
    """Sends spans to a collector, in a thread of its own; what it cannot send is dropped."""

    wanted = True

    def __init__(self, model: str, url: str) -> None:
        """Imports OpenTelemetry, which the extra ``tracing`` installs."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(url, timeout=_EXPORT_SECONDS)
        delay = int(_LATE_SECONDS * 1e3)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
        self._tracer = self._provider.get_tracer(model)

    @contextlib.contextmanager
    def within(self, name: str, parent: str | None) -> Iterator[str | None]:
        """A span around the context; an exception marks it."""
        if parent is None:
            yield None
            return
        with self._tracer.start_as_current_span(name, self._context(parent)):
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            yield carrier[TRACE_PARAMETER]

    def record(self, name: str, parent: str | None, begin: float, end: float, **attributes: Any) -> None:
        """A span of the past, between two times of the monotonic clock."""
        if parent is None:
            return
        offset = time.time() - time.monotonic()
        span = self._tracer.start_span(
            name, self._context(parent), start_time=int((begin + offset) * 1e9), attributes=attributes
        )
        span.end(int((end + offset) * 1e9))

    def close(self) -> None:
        """Sends what is left, or gives it up after some seconds."""
        self._provider.shutdown()

    def _context(self, parent: str) -> Any:
        return self._propagator.extract({TRACE_PARAMETER: parent})


def open_spans(model: str, environ: Mapping[str, str] = os.environ) -> Spans:
    """A model's spans, sent wherever the launcher says."""
    url = environ.get(URL_VARIABLE)
    return ExportedSpans(model, url) if url else NoSpans()
