"""Measures what a running server does with n requests in flight."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence

from ofa_client import AsyncCaptioner

from loadtest.loops import closed_loop
from loadtest.mix import OK, default_mix
from loadtest.scaling.curve import ServiceCurve
from loadtest.scraping import sums
from loadtest.servers import Served, machine

_SETTLE_SECONDS = 1.5
"""Until the models have passed on what they counted."""

_STAGES = ("preprocess_queue", "preprocess", "encode", "search_queue", "search")


def measure_curve(server: Served, model: str, in_flight: Sequence[int], seconds: float, command: str) -> ServiceCurve:
    """Keeps each number of requests in flight for ``seconds``.

    Raises:
        RuntimeError: a request was refused, so the numbers would not be what they seem.
    """
    rows = [asyncio.run(_row(server, model, count, seconds)) for count in in_flight]
    columns = list(zip(*rows, strict=True))
    limit = int(_counters(server)["ofa_images_in_flight_limit"])
    return ServiceCurve(machine(), command, list(in_flight), *map(list, columns), limit)


async def _row(server: Served, model: str, count: int, seconds: float) -> tuple[float, float, float]:
    images = [case.image for case in default_mix() if case.expected == OK and not case.options]
    async with AsyncCaptioner(server.grpc, model=model, retry=None) as captioner:
        await captioner.caption(images[0])
        await asyncio.sleep(_SETTLE_SECONDS)
        before = _counters(server)
        outcome = await closed_loop(captioner, images, count, seconds)
        await asyncio.sleep(_SETTLE_SECONDS)
        after = _counters(server)
    if outcome.refusals:
        raise RuntimeError(f"with {count} requests in flight some were refused: {dict(outcome.refusals)}")
    grown = {name: after[name] - before.get(name, 0) for name in after}
    images_done = grown["ofa_stage_duration_seconds_count"]
    waiting = sum(grown[f"stage {stage}"] for stage in _STAGES if stage.endswith("_queue"))
    computing = sum(grown[f"stage {stage}"] for stage in _STAGES) - waiting
    return outcome.per_second, waiting / images_done, computing / images_done


def _counters(server: Served) -> dict[str, float]:
    with urllib.request.urlopen(server.metrics, timeout=10) as answer:
        return sums(answer.read().decode())
