"""Traffic over simulated servers, second by second, with the autoscaler deciding as it would in the cluster.

A server with n requests in flight completes as many a second as the measured one did, the proxy keeps n alike on all,
and a request takes as long as Little's law says. What is lost is the chance within a second; what is kept is every
queue that lasts longer. The metrics are computed as the chart's queries do, and kept, so that Prometheus can be asked
the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.knee import TARGET_LOAD
from loadtest.scaling.autoscaler import SYNC_SECONDS, Autoscaler, PodValues
from loadtest.scaling.curve import ServiceCurve

SCRAPE_SECONDS = 5
IN_FLIGHT_SECONDS, RATE_SECONDS = 60, 120
"""The ranges of the chart's queries."""

RATE, IN_FLIGHT, RATIO = "ofa_requests_per_second", "ofa_images_in_flight", "ofa_queue_compute_ratio"

_STEPS = 25
"""Parts of a second in which a queue that builds up or drains is followed."""

_SETTLED = 0.02


@dataclass(frozen=True)
class Sample:
    """One scrape of a pod: requests in flight, answered so far, and their seconds waiting and being worked on."""

    second: int
    in_flight: float
    answered: float
    waiting: float
    computing: float


@dataclass(frozen=True)
class Flow:
    """A second of one server: requests in flight at its end and on average, answered, and refused."""

    end: float
    mean: float
    answered: float
    refused: float


@dataclass
class Pod:
    """One simulated server."""

    name: str
    ready_at: int
    in_flight: float = 0
    answered: float = 0
    waiting: float = 0
    computing: float = 0
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=RATE_SECONDS // SCRAPE_SECONDS + 1))

    def take(self, flow: Flow, waiting: float, computing: float) -> None:
        """A second passes, in which a request waits and is worked on for so many seconds."""
        self.in_flight = flow.mean
        self.answered += flow.answered
        self.waiting += flow.answered * waiting
        self.computing += flow.answered * computing

    def scrape(self, second: int) -> Sample:
        """What Prometheus would keep."""
        sample = Sample(second, self.in_flight, self.answered, self.waiting, self.computing)
        self.samples.append(sample)
        return sample

    def average_in_flight(self) -> float:
        """``avg_over_time`` of the last minute."""
        recent = [one.in_flight for one in self.samples if one.second >= self.samples[-1].second - IN_FLIGHT_SECONDS]
        return sum(recent) / len(recent)

    def per_second(self) -> float | None:
        """``rate`` of the last two minutes; None before the second scrape."""
        first, last = self.samples[0], self.samples[-1]
        return (last.answered - first.answered) / (last.second - first.second) if last is not first else None

    def waiting_by_computing(self) -> float | None:
        """``rate ÷ rate`` of the last two minutes; None while there is nothing to divide by."""
        first, last = self.samples[0], self.samples[-1]
        computing = last.computing - first.computing
        return (last.waiting - first.waiting) / computing if computing else None


@dataclass(frozen=True)
class Sync:
    """One of the autoscaler's decisions, and what it was based on."""

    second: int
    ready: tuple[str, ...]
    before: int
    values: Mapping[str, PodValues]
    replicas: int


@dataclass
class Replay:
    """What became of the traffic, second by second.

    Attributes:
        arrivals: requests.
        latency: seconds until a caption.
        refused: requests.
        ready: servers.
        syncs: the autoscaler's rounds.
        scrapes: what Prometheus would keep, by pod.
    """

    arrivals: np.ndarray
    latency: np.ndarray
    refused: np.ndarray
    ready: np.ndarray
    syncs: list[Sync] = field(default_factory=list)
    scrapes: dict[str, list[Sample]] = field(default_factory=dict)

    def slow_share(self, limit: float) -> float:
        """Share of the requests that took longer than ``limit`` seconds or were refused."""
        slow = self.arrivals[self.latency > limit].sum() + self.refused[self.latency <= limit].sum()
        return float(slow / self.arrivals.sum())


def replay(
    rates: np.ndarray, curve: ServiceCurve, spec: Mapping[str, Any], *, start_seconds: int, seed: int = 0
) -> Replay:
    """Runs the traffic.

    Args:
        rates: requests a second, one a second.
        curve: what a server does.
        spec: of the chart's HorizontalPodAutoscaler.
        start_seconds: from the decision for a pod until it takes requests.
        seed: of the random arrivals.
    """
    autoscaler = Autoscaler(spec, spec["minReplicas"])
    names = (f"captions-server-{number}" for number in range(10**6))
    pods = [Pod(next(names), 0) for _ in range(autoscaler.replicas)]
    count, in_flight = len(pods), 0.0
    arrivals = np.random.default_rng(seed).poisson(rates)
    result = Replay(arrivals, *(np.zeros(len(rates)) for _ in range(3)))
    for second, arriving in enumerate(arrivals.tolist()):
        ready = [pod for pod in pods if pod.ready_at <= second]
        in_flight, count = in_flight * count / len(ready), len(ready)
        flow = _second(min(in_flight, curve.limit), arriving / count, curve)
        in_flight = flow.end
        waiting, computing = curve.waiting(flow.mean), curve.computing(flow.mean)
        for pod in ready:
            pod.take(flow, waiting, computing)
        result.ready[second], result.refused[second] = count, flow.refused * count
        result.latency[second] = flow.mean / curve.throughput(flow.mean) if flow.mean else 0
        if second % SCRAPE_SECONDS == 0:
            for pod in ready:
                result.scrapes.setdefault(pod.name, []).append(pod.scrape(second))
        if second % SYNC_SECONDS == 0:
            sync = _sync(second, autoscaler, ready)
            result.syncs.append(sync)
            _resize(pods, sync.replicas, names, second + start_seconds)
    return result


def needed(rates: np.ndarray, curve: ServiceCurve, least: int, most: int) -> np.ndarray:
    """Servers that the rate needs, each at the target load, by five-minute means: what hindsight would run."""
    width = 300
    smooth = np.convolve(np.pad(rates, width // 2, mode="edge"), np.ones(width) / width, mode="same")
    smooth = smooth[width // 2 : width // 2 + len(rates)]
    return np.clip(np.ceil(smooth / (TARGET_LOAD * curve.knee)), least, most)


def _second(in_flight: float, rate: float, curve: ServiceCurve) -> Flow:
    """One server for a second, with ``rate`` requests coming."""
    balance = curve.in_flight_at(rate)
    if balance < curve.limit and abs(in_flight - balance) <= _SETTLED * balance:
        return Flow(balance, balance, rate, 0)
    answered = refused = total = 0.0
    for _ in range(_STEPS):
        done = min(curve.throughput(in_flight) / _STEPS, in_flight + rate / _STEPS)
        in_flight += rate / _STEPS - done
        surplus = max(in_flight - curve.limit, 0)
        in_flight -= surplus
        answered, refused, total = answered + done, refused + surplus, total + in_flight
    return Flow(in_flight, total / _STEPS, answered, refused)


def _sync(second: int, autoscaler: Autoscaler, ready: list[Pod]) -> Sync:
    seen = [pod for pod in ready if pod.samples]
    values = {
        RATE: _known({pod.name: pod.per_second() for pod in seen}),
        IN_FLIGHT: {pod.name: pod.average_in_flight() for pod in seen},
        RATIO: _known({pod.name: pod.waiting_by_computing() for pod in seen}),
    }
    names, before = tuple(pod.name for pod in ready), autoscaler.replicas
    return Sync(second, names, before, values, autoscaler.sync(second, values, names))


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _resize(pods: list[Pod], count: int, names: Iterator[str], ready_at: int) -> None:
    """Starts what is missing, and lets go of what is too many, the newest first."""
    pods += [Pod(next(names), ready_at) for _ in range(count - len(pods))]
    del pods[count:]
