"""From single results to figures a step of load, the knee, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
    # Answers count in the time they took: a backlog that is worked off after the step is not throughput.
    window = max([step.seconds, *(result.due + result.seconds - begin - step.start for result in right)])
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
    judged = [summary for summary in summaries if summary.rate <= thresholds["rate"] * NEARLY]
    found = [] if judged else [f"no step had at most {thresholds['rate']} requests/s: set the thresholds' rate"]
    for summary in judged:
        for name, value in asdict(summary).items():
            limits = thresholds.get(name) if name != "rate" else None
            if limits and not limits.get("min", -np.inf) <= value <= limits.get("max", np.inf):
                wanted = " and ".join(f"{bound} {limit}" for bound, limit in limits.items())
                found.append(f"{name} is {value:.3g} at {summary.rate:g} requests/s, must be {wanted}")
    return found


def _share(results: Sequence[Result], test: Any) -> float:
    return sum(map(test, results)) / len(results) if results else 0.0


def _ratio(counters: Mapping[str, float], above: str, below: str) -> float:
    return counters[above] / counters[below] if counters.get(below) else 0.0
