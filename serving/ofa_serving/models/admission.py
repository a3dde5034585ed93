"""Who may enter the public model: a bounded number of requests, and nobody any more once the server is stopping."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import triton_python_backend_utils as pb_utils

from ..contract import CaptionError, Code
from ..draining import DRAIN_VARIABLE, IN_FLIGHT_METRIC


class Admission:
    """Counts the requests in flight and shows the count as a metric; for a model of one instance, whose count it is."""

    def __init__(self, model: str, most: int, environ: Mapping[str, str] = os.environ) -> None:
        """Nothing is in flight yet.

        Args:
            model: the public model's name, the metric's label.
            most: requests that may be in flight; one more is refused.
            environ: says where the file is whose being there means that the server is stopping.
        """
        self._most, self._in_flight = most, 0
        self._lock = threading.Lock()
        self._drain = Path(environ[DRAIN_VARIABLE]) if environ.get(DRAIN_VARIABLE) else None
        # The family is kept: a metric lives no longer than its family.
        self._family = pb_utils.MetricFamily(
            name=IN_FLIGHT_METRIC, description="Requests that are being answered", kind=pb_utils.MetricFamily.GAUGE
        )
        self._gauge = self._family.Metric(labels={"model": model})
        self._gauge.set(0)

    def enter(self) -> None:
        """Admits one request, whose :meth:`leave` must follow once its answer is sent.

        Raises:
            CaptionError: OVERLOADED; the request does not count.
        """
        with self._lock:
            if self._drain is not None and self._drain.exists():
                raise CaptionError(Code.OVERLOADED, "the server is stopping; send the request again, to another")
            if self._in_flight == self._most:
                raise CaptionError(Code.OVERLOADED, "too many requests are being served; try again later")
            self._change(1)

    def leave(self) -> None:
        """Counts one request less. Call it after the answer has been sent: at zero the server may end."""
        with self._lock:
            self._change(-1)

    def _change(self, by: int) -> None:
        self._in_flight += by
        self._gauge.set(self._in_flight)
