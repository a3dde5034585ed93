"""The replayed day as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from loadtest.scaling.curve import ServiceCurve
from loadtest.scaling.replay import RATE, RATIO, Replay

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9742b", "#8a8f98"


def plot_day(path: Path, rates: np.ndarray, ideal: np.ndarray, result: Replay, curve: ServiceCurve) -> None:
    """Traffic, servers and time to a caption over the day, and what the autoscaler saw."""
    figure, (traffic, servers, latency, seen) = plt.subplots(
        4, 1, figsize=(12, 12), sharex=True, layout="constrained", height_ratios=(1, 1.3, 1, 1)
    )
    hours = np.arange(len(rates)) / 3600
    traffic.fill_between(hours, rates, color=_BLUE, alpha=0.25, linewidth=0)
    traffic.plot(hours, rates, color=_BLUE, linewidth=0.8)
    _axes(traffic, "Traffic", "requests/s")
    servers.step(hours, ideal, color=_GREY, linewidth=1.2, label="needed at 65 % load, in hindsight")
    servers.step(hours, result.ready, color=_BLUE, linewidth=1.6, label="ready")
    _axes(servers, "Servers", "")
    by_minute = result.latency.reshape(-1, 60)
    minutes = np.arange(len(by_minute)) / 60
    latency.plot(minutes, by_minute.mean(axis=1), color=_BLUE, linewidth=0.9, label="mean")
    latency.plot(minutes, by_minute.max(axis=1), color=_ORANGE, linewidth=0.9, label="the minute's worst second")
    latency.axhline(2.5, color=_GREY, linestyle="--", linewidth=1, label="objective")
    _axes(latency, "Time to a caption, minute by minute", "s")
    for name, colour in ((RATE, _BLUE), (RATIO, _ORANGE)):
        points = [
            (sync.second / 3600, np.mean(list(sync.values[name].values())))
            for sync in result.syncs
            if sync.values[name]
        ]
        axes = seen if name == RATE else seen.twinx()
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.9)
        axes.set_ylabel(name, color=colour)
    seen.set_title("What the autoscaler reads, mean of the servers", loc="left")
    seen.set_xlabel("hour of the day")
    seen.set_xlim(0, 24)
    seen.set_xticks(range(0, 25, 2))
    figure.suptitle(f"A day of traffic; service times measured on {curve.machine}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _axes(axes: plt.Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left")
