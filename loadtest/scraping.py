"""The server's own counters during a run, second by second."""

from __future__ import annotations

import bisect
import contextlib
import http.client
import re
import threading
import time
from collections import defaultdict
from itertools import pairwise

from ofa_serving.launcher.endpoints import open_directly

from loadtest.errors import LoadError

_SAMPLE = re.compile(r"^(ofa_\w+|nv_inference_(?:exec_)?count){([^}]*)} (\S+)$", re.MULTILINE)
_STAGE = re.compile(r'stage="(\w+)"')
_OF_THE_ENCODER = "_encoder"
_GROW = ("_total", "_count", "_sum", "_bucket")
_SECONDS = 1.0
_FIRST_SECONDS = 10.0
_NO_ANSWER = (OSError, ValueError, http.client.HTTPException)
"""What asking for a URL raises if it is none, is not reached, or answers with something else than text over HTTP."""


class Scraper:
    """Asks the metrics endpoint in a thread, from entering the context until leaving it; None asks nobody.

    Entering raises :class:`LoadError` if the endpoint has no counters: a wrong one would be told after the load.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._times: list[float] = []
        self._samples: list[dict[str, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def __enter__(self) -> Scraper:
        if self._url:
            try:
                self._ask(_FIRST_SECONDS)
            except _NO_ANSWER as error:
                raise LoadError(f"no counters at {self._url}: {error}") from error
            if not self._samples[0]:
                raise LoadError(f"no counters at {self._url}: its answer has none of a captioning server's")
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def growth(self, begin: float, end: float) -> dict[str, float]:
        """By how much each counter grew between two monotonic times.

        Empty without an endpoint, or if a counter shrank: the server began anew, or several answer by turns.
        """
        if not self._times:
            return {}
        first, last = (max(bisect.bisect_right(self._times, moment) - 1, 0) for moment in (begin, end))
        seen = self._samples[first : last + 1]
        if any(after.get(name, 0.0) < value for before, after in pairwise(seen) for name, value in _counters(before)):
            return {}
        return {name: value - self._samples[first].get(name, 0.0) for name, value in _counters(self._samples[last])}

    def _run(self) -> None:
        while self._url and not self._ended.wait(_SECONDS):
            with contextlib.suppress(*_NO_ANSWER):
                self._ask(_SECONDS)

    def _ask(self, timeout: float) -> None:
        with open_directly(self._url, timeout=timeout) as answer:
            text = answer.read().decode()
        self._times.append(time.monotonic())
        self._samples.append(sums(text))


def _counters(sample: dict[str, float]) -> list[tuple[str, float]]:
    """Those that only grow; the others are gauges."""
    return [item for item in sample.items() if item[0].startswith(("stage ", "nv_")) or item[0].endswith(_GROW)]


def sums(text: str) -> dict[str, float]:
    """Each counter over all models (Triton's own over encoders alone), and the stages' times as ``stage NAME``."""
    sums: dict[str, float] = defaultdict(float)
    for name, labels, value in _SAMPLE.findall(text):
        stage = _STAGE.search(labels)
        if name.startswith("nv_") and _OF_THE_ENCODER not in labels:
            continue
        if name == "ofa_stage_duration_seconds_sum" and stage:
            sums[f"stage {stage[1]}"] += float(value)
        elif name != "ofa_stage_duration_seconds_count" or (stage and stage[1] == "search"):
            sums[name] += float(value)
    return dict(sums)
