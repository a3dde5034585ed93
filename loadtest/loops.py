"""Load from one asyncio process: a number of requests kept in flight, or requests at random moments."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from ofa_client import AsyncCaptioner, CaptionServiceError

One = TypeVar("One")

_PAUSE_SECONDS = 0.1
"""After a refusal that names no time: a server that refuses at once would otherwise be kept busy with refusing."""


@dataclass
class Outcome:
    """What came of a stretch of load.

    Attributes:
        seconds: it took.
        latencies: of each caption in seconds; in an open loop from when it was due.
        lags: in an open loop, how late each request was sent.
        refusals: by code.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Captions."""
        return len(self.latencies) / self.seconds

    def latency(self, percent: float) -> float | None:
        """A percentile of the latencies; None without any."""
        return float(np.percentile(self.latencies, percent)) if self.latencies else None


def turns(contenders: Sequence[One], number: int) -> list[One]:
    """Everybody once, another one first in every round: the machine that the first one finds is nobody's alone."""
    begin = number % len(contenders)
    return [*contenders[begin:], *contenders[:begin]]


async def closed_loop(captioner: AsyncCaptioner, images: Sequence[bytes], in_flight: int, seconds: float) -> Outcome:
    """Keeps so many requests in flight: the throughput of a saturated server. Its latencies follow from that."""
    outcome, begin = Outcome(), time.monotonic()

    async def keep_sending(number: int) -> None:
        while time.monotonic() < begin + seconds:
            await asyncio.sleep(await _send(captioner, images[number % len(images)], outcome, time.monotonic()))
            number += in_flight

    await asyncio.gather(*(keep_sending(number) for number in range(in_flight)))
    outcome.seconds = time.monotonic() - begin
    return outcome


async def open_loop(
    captioner: AsyncCaptioner, images: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> Outcome:
    """Sends at the moments of a Poisson process, whatever became of earlier requests, and waits for every answer."""
    outcome, begin, chance = Outcome(), time.monotonic(), random.Random(seed)
    due = begin
    async with asyncio.TaskGroup() as tasks:
        number = 0
        while (due := due + chance.expovariate(rate)) < begin + seconds:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            outcome.lags.append(time.monotonic() - due)
            tasks.create_task(_send(captioner, images[number % len(images)], outcome, due))
            number += 1
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _send(captioner: AsyncCaptioner, image: bytes, outcome: Outcome, due: float) -> float:
    """Seconds to wait before the next one."""
    try:
        await captioner.caption(image)
    except CaptionServiceError as error:
        outcome.refusals[error.code] += 1
        return error.retry_after or _PAUSE_SECONDS
    outcome.latencies.append(time.monotonic() - due)
    return 0
