"""What a server answers under load: requests kept in flight (closed loop), and Poisson arrivals (open loop)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

IN_FLIGHT = (1, 2, 4, 8, 16)
UTILISATION = 0.7
"""Of the highest throughput that the closed loop saw."""


def measure_load(caption: Callable[[Path], str], images: Sequence[Path], arrivals: int) -> dict:
    """Captions a second and latencies against requests in flight; latencies of Poisson arrivals.

    Args:
        caption: captions one file; called from several threads.
        images: taken in turn.
        arrivals: requests of the open loop.
    """
    closed = {str(count): _closed(caption, images, count) for count in IN_FLIGHT}
    capacity = max(figures["captions_per_second"] for figures in closed.values())
    return {"closed": closed, "poisson": _poisson(caption, images, capacity * UTILISATION, arrivals)}


def _closed(caption: Callable[[Path], str], images: Sequence[Path], in_flight: int) -> dict[str, float]:
    requests = max(16, 4 * in_flight)

    def timed(number: int) -> float:
        started = time.perf_counter()
        caption(images[number % len(images)])
        return time.perf_counter() - started

    with ThreadPoolExecutor(in_flight) as pool:
        started = time.perf_counter()
        seconds = list(pool.map(timed, range(requests)))
        whole = time.perf_counter() - started
    return {"captions_per_second": round(requests / whole, 3), **_latencies(seconds)}


def _poisson(caption: Callable[[Path], str], images: Sequence[Path], rate: float, requests: int) -> dict[str, float]:
    """Latency counts from when a request was due, so a request that had to wait for its sender counts the wait."""
    due = np.cumsum(np.random.default_rng(11).exponential(1 / rate, requests))
    begin = time.perf_counter()

    def timed(number: int) -> float:
        caption(images[number % len(images)])
        return time.perf_counter() - begin - due[number]

    with ThreadPoolExecutor(requests) as pool:
        futures = []
        for number in range(requests):
            time.sleep(max(0.0, begin + due[number] - time.perf_counter()))
            futures.append(pool.submit(timed, number))
        seconds = [future.result() for future in futures]
    return {"requests": requests, "rate": round(rate, 3), **_latencies(seconds)}


def _latencies(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
