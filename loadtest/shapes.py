"""How the load goes over time: stretches of constant rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A stretch of ``seconds`` with ``rate`` requests a second, from ``start`` seconds after the beginning."""

    start: float
    seconds: float
    rate: float

    @property
    def end(self) -> float:
        """When the next one begins."""
        return self.start + self.seconds


def steps_of(shape: str, rate: float, seconds: float) -> list[Step]:
    """A named shape.

    Args:
        shape: ``constant``: one rate for ``seconds``; ``soak``: the same, meant for hours; ``spike``: a third at the
            rate, a third at five times it, a third at the rate again; ``steps``: a quarter of the rate, then doubled
            stretch by stretch up to eight times it, each ``seconds`` long.
        rate: requests a second.
        seconds: how long; of ``steps`` each one.

    Raises:
        ValueError: no such shape.
    """
    if shape in ("constant", "soak"):
        return _in_turn([(seconds, rate)])
    if shape == "spike":
        return _in_turn([(seconds / 3, rate), (seconds / 3, 5 * rate), (seconds / 3, rate)])
    if shape == "steps":
        return _in_turn([(seconds, rate * factor) for factor in (0.25, 0.5, 1, 2, 4, 8)])
    raise ValueError(f"no shape is called {shape}: constant, soak, spike or steps")


def _in_turn(stretches: list[tuple[float, float]]) -> list[Step]:
    steps, start = [], 0.0
    for seconds, rate in stretches:
        steps.append(Step(start, seconds, rate))
        start += seconds
    return steps
