"""From single results to figures a step of load, the knee, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.mix import OK
from loadtest.shapes import Step

KEEPS_UP = 0.95
SLOWDOWN = 5.0
"""At the knee the server still answers 95 % of the rate, and its median is at most five times the unloaded one."""

TARGET_LOAD = 0.65

NEARLY = 1.25
"""Random arrivals are seldom exactly the rate."""


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
    """One step of load in figures; the field names are those of ``thresholds.yaml``."""

    rate: float
    requests: int
    wrong_share: float
    rejected_share: float
    answered_per_second: float
    answered_ratio: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    generator_lag_p99_seconds: float
    rows_a_step: float
    images_a_run: float
    stage_seconds: Mapping[str, float]


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
    # Answers count in the time they took: a backlog that is worked off after the step is not throughput. What a request
    # of its kind takes at best is no backlog.
    fastest = _fastest(results)
    done = [result.due + result.seconds - fastest[result.name] - begin - step.start for result in right]
    window = max([step.seconds, *done])
    offered = len(own) / step.seconds
    return Summary(
        rate=round(offered, 2),
        requests=len(own),
        wrong_share=_share(own, lambda result: not result.right),
        rejected_share=_share(own, lambda result: result.code == "OVERLOADED"),
        answered_per_second=len(right) / window,
        answered_ratio=len(right) / window / offered if offered else 0.0,
        p50_seconds=float(p50),
        p95_seconds=float(p95),
        p99_seconds=float(p99),
        generator_lag_p99_seconds=float(np.percentile([result.lag for result in own], 99)) if own else 0.0,
        rows_a_step=_ratio(counters, "ofa_search_rows_total", "ofa_search_steps_total"),
        images_a_run=_ratio(counters, "nv_inference_count", "nv_inference_exec_count"),
        stage_seconds={
            name.removeprefix("stage "): value / counters["ofa_stage_duration_seconds_count"]
            for name, value in counters.items()
            if name.startswith("stage ") and counters.get("ofa_stage_duration_seconds_count")
        },
    )


def knee(summaries: Sequence[Summary]) -> float | None:
    """The highest rate that the server keeps up with; None if not even the lowest."""
    unloaded = min(summary.p50_seconds for summary in summaries)
    kept = [
        summary.answered_per_second
        for summary in summaries
        if summary.answered_ratio >= KEEPS_UP and summary.p50_seconds <= SLOWDOWN * unloaded
    ]
    return max(kept, default=None)


def replicas(rate: float, knee_rate: float) -> int:
    """Servers for a rate: each at 65 % of its knee, and one more for when one is away."""
    return int(np.ceil(rate / (knee_rate * TARGET_LOAD))) + 1


def failures(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[str]:
    """What does not hold, a sentence each; empty means passed."""
    judged = _judged(thresholds, summaries)
    found = [] if judged else [f"no step had at most {thresholds['rate']} requests/s: set the thresholds' rate"]
    for summary in judged:
        for name, limits in _limits(thresholds):
            value = getattr(summary, name)
            if not _within(limits, value):
                wanted = _words(limits)
                found.append(f"{name} is {value:.3g} at {summary.rate:g} requests/s, must be {wanted}")
    return found


@dataclass(frozen=True)
class Judgement:
    """One threshold, the figure that came nearest to breaking it, and at which rate."""

    name: str
    wanted: str
    worst: float
    rate: float
    holds: bool


def judge(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[Judgement]:
    """Each threshold over the steps that are judged; empty if none is."""
    judged = _judged(thresholds, summaries)
    found = []
    for name, limits in _limits(thresholds) if judged else ():
        pick = max if "max" in limits else min
        worst = pick(judged, key=lambda summary, name=name: getattr(summary, name))
        value = getattr(worst, name)
        found.append(Judgement(name, _words(limits), value, worst.rate, _within(limits, value)))
    return found


def _judged(thresholds: Mapping[str, Any], summaries: Iterable[Summary]) -> list[Summary]:
    return [summary for summary in summaries if summary.rate <= thresholds["rate"] * NEARLY]


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


def _ratio(counters: Mapping[str, float], above: str, below: str) -> float:
    return counters[above] / counters[below] if counters.get(below) else 0.0
