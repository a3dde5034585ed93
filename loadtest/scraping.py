"""The server's own counters during a run, second by second."""

from __future__ import annotations

import bisect
import re
import threading
import time
import urllib.request
from collections import defaultdict

_SAMPLE = re.compile(r"^(ofa_\w+|nv_inference_(?:exec_)?count){([^}]*)} (\S+)$", re.MULTILINE)
_STAGE = re.compile(r'stage="(\w+)"')
_OF_THE_ENCODER = "_encoder"
_SECONDS = 1.0


class Scraper:
    """Asks the metrics endpoint in a thread, from entering the context until leaving it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._times: list[float] = []
        self._samples: list[dict[str, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def growth(self, begin: float, end: float) -> dict[str, float]:
        """By how much each counter grew between two monotonic times; empty if the endpoint was not reached."""
        if not self._times:
            return {}
        first, last = (max(bisect.bisect_right(self._times, moment) - 1, 0) for moment in (begin, end))
        return {name: value - self._samples[first].get(name, 0.0) for name, value in self._samples[last].items()}

    def _run(self) -> None:
        while not self._ended.wait(_SECONDS):
            try:
                with urllib.request.urlopen(self._url, timeout=_SECONDS) as answer:
                    text = answer.read().decode()
            except OSError:
                continue
            self._times.append(time.monotonic())
            self._samples.append(sums(text))


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
