"""Measures what a running server does with n requests in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from ofa_client import AsyncCaptioner, CaptionServiceError
from ofa_serving.contract import STAGES
from ofa_serving.launcher.endpoints import open_directly

from loadtest.loops import closed_loop
from loadtest.mix import OK, default_mix
from loadtest.scaling.curve import ServiceCurve
from loadtest.scraping import sums
from loadtest.servers import Served, machine

_SETTLE_SECONDS = 1.5
"""Until the models have passed on what they counted."""

logger = logging.getLogger("loadtest.scaling")


class RefusedError(Exception):
    """A request was refused, so that fewer were in flight than it seems; says how many of which code."""


def measure_curve(server: Served, model: str, seconds: float, command: str) -> ServiceCurve:
    """Keeps ever more requests in flight, each number for ``seconds``, up to the server's limit or its first refusal.

    Raises:
        RefusedError: already with one in flight.
    """
    limit, rows = int(_counters(server)["ofa_images_in_flight_limit"]), {}
    for count in numbers_up_to(limit):
        try:
            rows[count] = asyncio.run(_row(server, model, count, seconds))
        except RefusedError as error:
            logger.info("with %d requests in flight some were refused (%s): measured below that", count, error)
            if not rows:
                raise
            break
    columns = list(zip(*rows.values(), strict=True))
    return ServiceCurve(machine(), command, list(rows), *map(list, columns), limit)


def numbers_up_to(limit: int) -> Iterator[int]:
    """1, 2, 4, 8, 12, 16, 24, 32, 48 and so on, and the limit itself."""
    number = 1
    while number < limit:
        yield number
        if number >= 8 and number * 3 // 2 < limit:
            yield number * 3 // 2
        number *= 2
    yield limit


async def _row(server: Served, model: str, count: int, seconds: float) -> tuple[float, float, float]:
    images = [case.image for case in default_mix() if case.expected == OK and not case.options]
    async with AsyncCaptioner(server.grpc, model=model, retry=None) as captioner:
        try:
            await captioner.caption(images[0])
        except CaptionServiceError as error:
            raise RefusedError(str(error)) from error
        await asyncio.sleep(_SETTLE_SECONDS)
        before = _counters(server)
        outcome = await closed_loop(captioner, images, count, seconds)
        await asyncio.sleep(_SETTLE_SECONDS)
        after = _counters(server)
    if outcome.refusals:
        raise RefusedError(", ".join(f"{number} {code}" for code, number in outcome.refusals.items()))
    grown = {name: after[name] - before.get(name, 0) for name in after}
    images_done = grown["ofa_stage_duration_seconds_count"]
    waiting = sum(grown[f"stage {stage}"] for stage in STAGES if stage.endswith("_queue"))
    computing = sum(grown[f"stage {stage}"] for stage in STAGES) - waiting
    return outcome.per_second, waiting / images_done, computing / images_done


def _counters(server: Served) -> dict[str, float]:
    with open_directly(server.metrics, timeout=10) as answer:
        return sums(answer.read().decode())
