"""Shows a model's metrics on Triton's own endpoint.

Each change of a Triton metric is a message between processes, and Triton 2.51 has no histogram for Python models. So
the models count in their own process, and once a second what has changed since is passed on; a histogram's buckets,
sum and count go as counters of the names that Prometheus reads them by.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import triton_python_backend_utils as pb_utils
from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

_SECONDS = 1.0
_CREATED = "_created"


class Publisher:
    """Passes a registry on in a thread of its own, until it is closed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Shows the present values before it returns: a scrape finds every series from the first on."""
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, frozenset[tuple[str, str]]], _Series] = {}
        self._closed = threading.Event()
        self._publish()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Passes the last values on and ends the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_SECONDS):
            self._try_to_publish()
        self._try_to_publish()

    def _try_to_publish(self) -> None:
        """Triton may lack shared memory for the messages; what is missed is passed on next time."""
        try:
            self._publish()
        except Exception as error:
            logger.warning("metrics could not be shown: %s", error)

    def _publish(self) -> None:
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(_CREATED):
                    self._series_of(sample, family).update(sample.value)

    def _series_of(self, sample: Any, family: Any) -> _Series:
        key = sample.name, frozenset(sample.labels.items())
        if key not in self._series:
            counts = family.type != "gauge"
            kind = pb_utils.MetricFamily.COUNTER if counts else pb_utils.MetricFamily.GAUGE
            if sample.name not in self._families:
                self._families[sample.name] = pb_utils.MetricFamily(sample.name, family.documentation, kind)
            self._series[key] = _Series(self._families[sample.name].Metric(labels=sample.labels), counts)
        return self._series[key]


class _Series:
    """One of Triton's metrics, and the value it was last given."""

    def __init__(self, metric: Any, counts: bool) -> None:
        self._metric, self._counts, self._value = metric, counts, 0.0

    def update(self, value: float) -> None:
        """Passes the value on if it has changed; of a counter the increase."""
        if value == self._value:
            return
        if self._counts:
            self._metric.increment(value - self._value)
        else:
            self._metric.set(value)
        self._value = value
