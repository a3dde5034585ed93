"""A day of traffic as captioning services see it: quiet nights, busy evenings, one rush that nobody announced."""

from __future__ import annotations

import numpy as np

DAY_SECONDS = 24 * 3600
RUSH = (14 * 3600, 14 * 3600 + 900)
"""Begin and end of the rush."""

_RUSH_FACTOR = 1.8
_NOISE = 0.05
_NOISE_SECONDS = 60


def rates_of_a_day(peak: float, seed: int = 0) -> np.ndarray:
    """Requests a second, FP64 [86400]; ``peak`` is the evening's, noise and rush aside."""
    hours = np.arange(DAY_SECONDS) / 3600
    shape = 0.15 + _hump(hours, 11.5, 2.5, 0.45) + _hump(hours, 20, 2.2, 0.85)
    rates = peak * shape / shape.max()
    rates[slice(*RUSH)] *= _RUSH_FACTOR
    noise = np.random.default_rng(seed).normal(0, _NOISE, DAY_SECONDS // _NOISE_SECONDS)
    return rates * np.exp(np.repeat(noise, _NOISE_SECONDS))


def _hump(hours: np.ndarray, centre: float, width: float, height: float) -> np.ndarray:
    return height * np.exp(-(((hours - centre) / width) ** 2))
