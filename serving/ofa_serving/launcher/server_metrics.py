"""Reads a server's own metrics."""

from __future__ import annotations

import http.client
import re

from ofa_serving.launcher.endpoints import open_directly

_TIMEOUT = 2


def read_metric(url: str, name: str, **labels: str) -> float | None:
    """Return the sum of a metric's samples that have these labels; None if the server has none, or does not answer."""
    try:
        with open_directly(url, timeout=_TIMEOUT) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    samples = re.findall(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = [float(value) for given, value in samples if all(pair in given for pair in wanted)]
    return sum(values) if values else None
