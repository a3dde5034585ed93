"""From single results to figures a step of load, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.mix import CALLER_LIMIT, OK
from loadtest.shapes import Step

FAR_BELOW = 0.8
"""Of what it was asked for, a generator sends less only because it cannot do more, once chance is allowed for."""


@dataclass(frozen=True)
class Result:
    """One answered request; times in seconds, ``due`` on the monotonic clock."""

    name: str
    due: float
    lag: float
    seconds: float
    code: str
    expected: str

    @property
    def right(self) -> bool:
        """Whether the answer was the expected one."""
        return self.code == self.expected


@dataclass(frozen=True)
class Summary:
    """One step of load in figures; the field names are those of ``thresholds.yaml``.

    ``asked`` and ``rate`` are requests a second: what the shape wanted, and what was due in the step and sent. Batches
    are None without the server's counters.
    """

    asked: float
    rate: float
    requests: int
    seconds: float
    wrong_share: float
    rejected_share: float
    limited_share: float
    answered_per_second: float
    answered_ratio: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    generator_lag_p99_seconds: float
    captions_a_step: float | None
    images_a_run: float | None
    stage_seconds: Mapping[str, float]

    @property
    def short(self) -> bool:
        """Whether the generator sent far less than it was asked for."""
        wanted = self.asked * self.seconds
        return self.requests < FAR_BELOW * wanted - 3 * wanted**0.5


def read_results(folder: Path) -> list[Result]:
    """The results of every worker."""
    fields = ("name", "due", "lag", "seconds", "code", "expected")
    lines = (line for path in folder.glob("results-*.jsonl") for line in path.read_text().splitlines())
    return [Result(**{name: entry[name] for name in fields}) for entry in map(json.loads, lines)]


def summarise(step: Step, begin: float, results: Sequence[Result], counters: Mapping[str, float]) -> Summary:
    """The figures of one step.

    Args:
        step: of the shape.
        begin: the monotonic time at which the shape began.
        results: of the whole run; a request belongs to the step in which it was due.
        counters: by how much the server's counters grew in the step; see :mod:`loadtest.scraping`.
    """
    own = [result for result in results if step.start <= result.due - begin < step.end]
    right = [result for result in own if result.right]
    seconds = [result.seconds for result in right if result.code == OK]
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)) if seconds else (float("inf"),) * 3
    # Answers count that came within the step: a backlog that is worked off after it is not throughput. What a request
    # of its kind takes at best is no backlog, and neither is a single one that comes late.
    fastest = _fastest(results)
    late = sum(result.due + result.seconds - fastest[result.name] >= begin + step.end for result in right)
    answered = len(right) - (late if late > 1 else 0)
    return Summary(
        asked=step.rate,
        rate=round(len(own) / step.seconds, 2),
        requests=len(own),
        seconds=step.seconds,
        wrong_share=_share(own, lambda result: not result.right),
        rejected_share=_share(own, lambda result: result.code in ("OVERLOADED", CALLER_LIMIT)),
        limited_share=_share(own, lambda result: result.code == CALLER_LIMIT),
        answered_per_second=answered / step.seconds,
        answered_ratio=answered / len(own) if own else 0.0,
        p50_seconds=float(p50),
        p95_seconds=float(p95),
        p99_seconds=float(p99),
        generator_lag_p99_seconds=float(np.percentile([result.lag for result in own], 99)) if own else 0.0,
        captions_a_step=_ratio(counters, "ofa_search_tokens_total", "ofa_search_steps_total"),
        images_a_run=_ratio(counters, "nv_inference_count", "nv_inference_exec_count"),
        stage_seconds={
            name.removeprefix("stage "): value / counters["ofa_stage_duration_seconds_count"]
            for name, value in counters.items()
            if name.startswith("stage ") and counters.get("ofa_stage_duration_seconds_count")
        },
    )


def failures(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[str]:
    """What does not hold, a sentence each; empty means passed. What was not measured is not judged."""
    found = []
    for summary in _judged(thresholds, summaries):
        if summary.short:
            found.append(
                f"the generator sent {summary.rate:g} of {summary.asked:g} requests/s: more WORKERS, or another machine"
            )
        for name, limits in _limits(thresholds):
            value = getattr(summary, name)
            if value is not None and not _within(limits, value):
                wanted = _words(limits)
                found.append(f"{name} is {value:.3g} at {summary.asked:g} requests/s, must be {wanted}")
    return found


@dataclass(frozen=True)
class Judgement:
    """One threshold, the figure that came nearest to breaking it, and at which rate; None if it was not measured."""

    name: str
    wanted: str
    worst: float | None = None
    rate: float | None = None
    holds: bool | None = None


def judge(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[Judgement]:
    """Each threshold over the steps that are judged."""
    judged = _judged(thresholds, summaries)
    return [_judgement(name, limits, judged) for name, limits in _limits(thresholds)]


def _judgement(name: str, limits: Mapping[str, float], judged: Sequence[Summary]) -> Judgement:
    figures = [(value, summary.asked) for summary in judged if (value := getattr(summary, name)) is not None]
    if not figures:
        return Judgement(name, _words(limits))
    value, rate = (max if "max" in limits else min)(figures, key=lambda figure: figure[0])
    return Judgement(name, _words(limits), value, rate, _within(limits, value))


def _judged(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[Summary]:
    return [summary for summary in summaries if summary.asked <= thresholds["rate"]]


def _limits(thresholds: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    return [(name, limits) for name, limits in thresholds.items() if name != "rate"]


def _within(limits: Mapping[str, float], value: float) -> bool:
    return limits.get("min", -np.inf) <= value <= limits.get("max", np.inf)


def _words(limits: Mapping[str, float]) -> str:
    return " and ".join(f"{bound} {limit}" for bound, limit in limits.items())


def _fastest(results: Iterable[Result]) -> dict[str, float]:
    """Seconds of the fastest right answer to each kind of request."""
    fastest: dict[str, float] = {}
    for result in results:
        if result.right:
            fastest[result.name] = min(result.seconds, fastest.get(result.name, result.seconds))
    return fastest


def _share(results: Sequence[Result], test: Any) -> float:
    return sum(map(test, results)) / len(results) if results else 0.0


def _ratio(counters: Mapping[str, float], above: str, below: str) -> float | None:
    return counters[above] / counters[below] if counters.get(below) else None
