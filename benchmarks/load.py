"""What a server answers under load: requests kept in flight (closed loop), and Poisson arrivals (open loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ofa_client import AsyncCaptioner

from loadtest.loops import Outcome, closed_loop, open_loop

IN_FLIGHT = {"cpu": (1, 2, 4, 8, 16), "gpu": (1, 4, 16, 64, 128, 256), "host": (1, 4)}
UTILISATION = 0.7
"""Of the highest throughput that the closed loop saw."""


def measure_load(url: str, model: str, images: Sequence[Path], seconds: float, device: str = "cpu") -> dict:
    """Captions a second and latencies against requests in flight; latencies of Poisson arrivals.

    Args:
        url: the server's.
        model: the public model's name.
        images: taken in turn.
        seconds: of each number in flight; the open loop takes three times as long.
        device: a key of :data:`IN_FLIGHT`.
    """
    return asyncio.run(_measure(url, model, [image.read_bytes() for image in images], seconds, IN_FLIGHT[device]))


def milliseconds(seconds: float | None) -> float | None:
    """Rounded; None if there are none."""
    return None if seconds is None else round(seconds * 1e3, 1)


async def _measure(url: str, model: str, images: Sequence[bytes], seconds: float, in_flight: Sequence[int]) -> dict:
    async with AsyncCaptioner(url, model=model, timeout=120, retry=None) as captioner:
        closed = {str(count): _figures(await closed_loop(captioner, images, count, seconds)) for count in in_flight}
        rate = UTILISATION * max(figures["captions_per_second"] for figures in closed.values())
        poisson = await open_loop(captioner, images, rate, 3 * seconds) if rate else Outcome(3 * seconds)
    return {"closed": closed, "poisson": {"rate": round(rate, 3), **_figures(poisson)}}


def _figures(outcome: Outcome) -> dict[str, float | None]:
    return {
        "captions_per_second": round(outcome.per_second, 3),
        "p50_ms": milliseconds(outcome.latency(50)),
        "p99_ms": milliseconds(outcome.latency(99)),
        "requests": len(outcome.latencies),
        "refused": outcome.refusals.total(),
    }
