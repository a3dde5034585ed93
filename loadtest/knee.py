"""What a run says of capacity: the highest rate that is kept up with, and how many servers another rate takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.summary import Summary

KEEPS_UP = 0.95
SLOWDOWN = 5.0
"""At the knee the server still answers 95 % of the rate, and its median is at most five times the unloaded one."""

TARGET_LOAD = 0.65


@dataclass(frozen=True)
class Knee:
    """The highest rate that was kept up with; ``least`` if no higher one was tried that says anything."""

    rate: float
    least: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.least else ''}{self.rate:.1f} requests/s"


def knee(summaries: Sequence[Summary], most_lag: float = math.inf) -> Knee | None:
    """Of the steps that say something; None if not even the lowest was kept up with.

    Args:
        summaries: one a step.
        most_lag: seconds that the generator may be late; see :func:`excuse`.
    """
    telling = [summary for summary in summaries if excuse(summary, most_lag) is None]
    unloaded = min((summary.p50_seconds for summary in telling), default=math.inf)
    kept = [
        summary
        for summary in telling
        if summary.answered_ratio >= KEEPS_UP and summary.p50_seconds <= SLOWDOWN * unloaded
    ]
    if not kept:
        return None
    best = max(kept, key=lambda summary: summary.answered_per_second)
    return Knee(best.answered_per_second, all(summary.asked <= best.asked for summary in telling))


def excuse(summary: Summary, most_lag: float) -> str | None:
    """Why a step says nothing of the servers; None if it does."""
    if summary.limited_share:
        return f"the proxy refused {summary.limited_share:.1%} as too many of one caller: raise proxy.perCaller"
    if summary.generator_lag_p99_seconds > most_lag:
        return f"the generator was {summary.generator_lag_p99_seconds:.2f} s late: more WORKERS, or another machine"
    if summary.short:
        return f"the generator sent {summary.rate:g}/s: more WORKERS, or another machine"
    return None


def replicas(rate: float, knee_rate: float) -> int:
    """Servers for a rate: each at 65 % of its knee, and one more for when one is away."""
    return math.ceil(rate / (knee_rate * TARGET_LOAD)) + 1


def conclusion(
    summaries: Sequence[Summary], found: Knee | None, most_lag: float, servers: int | None, wanted: float | None
) -> str:
    """What follows, in sentences.

    Args:
        summaries: one a step.
        found: their knee.
        most_lag: as for :func:`knee`.
        servers: how many stood behind the address; None if nobody said.
        wanted: requests a second for which to count servers.
    """
    excuses = [(summary, reason) for summary in summaries if (reason := excuse(summary, most_lag))]
    who = {None: "The service keeps", 1: "The server keeps"}.get(servers, f"The {servers} servers together keep")
    if found:
        sentences = [f"{who} up with {found}."]
    elif len(excuses) == len(summaries):
        sentences = ["Nothing tells what is kept up with."]
    else:
        sentences = [f"{who} up with no rate that was tried."]
    if found and servers and servers > 1:
        sentences.append(f"That is {found.rate / servers:.1f} a server.")
    if found and servers and wanted:
        most, count = "at most " if found.least else "", replicas(wanted, found.rate / servers)
        sentences.append(f"{wanted:g} requests/s need {most}{count} servers: each at 65 % of that, and one more.")
    if found and found.least and not excuses:
        sentences.append("No higher rate was tried: with one the knee would show.")
    sentences += [f"At {summary.asked:g} requests/s {reason}." for summary, reason in excuses]
    return " ".join(sentences)
