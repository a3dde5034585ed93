"""What one server does with n requests in flight, measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from loadtest.knee import SLOWDOWN

DAY_CURVE = Path(__file__).parents[1] / "results/service-curve.json"
"""The recorded measurement; it names its machine and command."""


@dataclass(frozen=True)
class ServiceCurve:
    """One row a number of requests in flight, ascending.

    Attributes:
        machine: where it was measured.
        command: by what.
        in_flight: requests that were kept in flight.
        per_second: captions a second, then.
        waiting_seconds: of an image in the ``_queue`` stages, then.
        computing_seconds: of an image in the other stages, then.
        limit: requests in flight at which one more is refused.
    """

    machine: str
    command: str
    in_flight: Sequence[float]
    per_second: Sequence[float]
    waiting_seconds: Sequence[float]
    computing_seconds: Sequence[float]
    limit: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Keeps the measurement."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def throughput(self, in_flight: float) -> float:
        """Captions a second; below the lowest measured number in proportion."""
        return float(np.interp(in_flight, [0, *self.in_flight], [0, *self._rising]))

    def in_flight_at(self, rate: float) -> float:
        """How many are in flight when ``rate`` a second come and go; infinity if more come than can go."""
        if rate > self._rising[-1]:
            return float("inf")
        return float(np.interp(rate, [0, *self._rising], [0, *self.in_flight]))

    def waiting(self, in_flight: float) -> float:
        """Seconds an image waits."""
        return float(np.interp(in_flight, self.in_flight, self.waiting_seconds))

    def computing(self, in_flight: float) -> float:
        """Seconds an image is worked on."""
        return float(np.interp(in_flight, self.in_flight, self.computing_seconds))

    @property
    def knee(self) -> float:
        """The highest rate at which a caption takes at most ``SLOWDOWN`` times what it takes alone."""
        alone = self.in_flight[0] / self.per_second[0]
        rows = zip(self.in_flight, self._rising, strict=True)
        return max(rate for count, rate in rows if count / rate <= SLOWDOWN * alone)

    @property
    def bounded(self) -> bool:
        """Whether something was measured beyond the knee, so that it is one."""
        return self.knee < self._rising[-1]

    @cached_property
    def _rising(self) -> list[float]:
        """The throughput without the measurement's own ups and downs: more in flight never does less."""
        return np.maximum.accumulate(self.per_second).tolist()
