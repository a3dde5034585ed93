"""One load test as it was asked for: what the command hands to Locust's processes, and what both derive from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loadtest.shapes import Step, steps_of

FILE_NAME = "plan.json"
LEFTOVERS = ("results-*.jsonl", "ready-*", "done-*", "failed-*", "start.json", FILE_NAME, "report.html", "locust.html")
"""What an earlier run left in the folder, and must not be taken for this one's."""

_USER_RATE = 0.25
_READY_SECONDS = 60.0
_MARGIN_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What is sent where.

    Attributes:
        url: of the server.
        model: its model.
        shape: see :func:`loadtest.shapes.steps_of`.
        rate: requests a second.
        seconds: how long, of steps each one.
        workers: processes that make the load.
        timeout: seconds that a request may take.
    """

    url: str
    model: str
    shape: str
    rate: float
    seconds: float
    workers: int
    timeout: float

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads what :meth:`write` wrote."""
        return cls(**json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Keeps it where Locust's processes look."""
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @property
    def steps(self) -> Sequence[Step]:
        """The stretches of load."""
        return steps_of(self.shape, self.rate, self.seconds)

    @property
    def user_rate(self) -> float:
        """Requests a second that one user stands for, of which the lowest step has a whole number."""
        lowest = min(step.rate for step in self.steps)
        return lowest / math.ceil(lowest / _USER_RATE)

    def ready_seconds(self, captions: int) -> float:
        """How long the first captions may take, which are asked for in turn."""
        return max(_READY_SECONDS, captions * self.timeout)

    @property
    def drain_seconds(self) -> float:
        """How long the last answers may take: a request that is late ends by its own timeout."""
        return self.timeout + 2

    def longest_seconds(self, captions: int) -> float:
        """After which Locust hangs."""
        load = self.steps[-1].end
        return self.ready_seconds(captions) + load + self.drain_seconds + _MARGIN_SECONDS
