"""Empties a server before it is told to end; see :mod:`ofa_serving.draining`."""

from __future__ import annotations

import re
import urllib.request

from ofa_serving.draining import IN_FLIGHT_METRIC

_SAMPLE = re.compile(rf"^{IN_FLIGHT_METRIC}(?:{{.*}})? (\S+)$", re.MULTILINE)
_TIMEOUT = 2


def requests_in_flight(metrics_url: str) -> int | None:
    """Return how many requests the server's public models are answering; None if it does not say."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=_TIMEOUT) as answer:
            samples = _SAMPLE.findall(answer.read().decode())
    except OSError:
        return None
    return int(sum(map(float, samples))) if samples else None
