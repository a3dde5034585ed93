"""The report's plots, as SVG that stands inside the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from loadtest.knee import Knee
from loadtest.summary import Summary

BLUE, ORANGE, GREEN, VIOLET, GREY = "#1f5fa8", "#d9742b", "#2e8b63", "#7a5aa6", "#8a8f98"
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c5cbd3",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": "#5c6675",
    "ytick.color": "#5c6675",
    "axes.labelcolor": "#5c6675",
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "svg.fonttype": "path",
}


def plots(summaries: Sequence[Summary], knee: Knee | None) -> str:
    """Throughput, latency, batches and stage times against the rate, as one ``<svg>``."""
    with mpl.rc_context(_STYLE):
        figure, ((throughput, latency), (batches, stages)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
        rates = [summary.rate for summary in summaries]
        throughput.plot(rates, rates, color=GREY, linestyle="--", linewidth=1, label="sent")
        throughput.plot(rates, [s.answered_per_second for s in summaries], marker="o", color=BLUE, label="answered")
        for name, colour in (("p50_seconds", BLUE), ("p95_seconds", GREEN), ("p99_seconds", ORANGE)):
            values = [getattr(summary, name) for summary in summaries]
            latency.plot(rates, values, marker="o", color=colour, label=name.removesuffix("_seconds"))
        latency.set_yscale("log")
        latency.yaxis.set_major_formatter("{x:g}")
        latency.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        latency.yaxis.set_minor_formatter("{x:g}")
        for name, colour, label in (
            ("captions_a_step", BLUE, "captions a decoder step"),
            ("images_a_run", ORANGE, "images an encoder run"),
        ):
            measured = [(s.rate, value) for s in summaries if (value := getattr(s, name)) is not None]
            if measured:
                batches.plot(*zip(*measured, strict=True), marker="o", color=colour, label=label)
        _stack_stages(stages, [summary for summary in summaries if summary.stage_seconds])
        for axes, title, unit in (
            (throughput, "Throughput", "answers/s"),
            (latency, "Time to a caption", "s"),
            (batches, "Mean batch", ""),
            (stages, "Mean time in each stage", "s"),
        ):
            _finish(axes, title, unit, knee)
        out = io.StringIO()
        figure.savefig(out, format="svg")
        plt.close(figure)
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


def _stack_stages(axes: Axes, summaries: Sequence[Summary]) -> None:
    """Waiting in pale colours, computing in full ones."""
    colours = {
        "preprocess_queue": "#b9cde4",
        "preprocess": BLUE,
        "encode": GREEN,
        "search_queue": "#f0cfb6",
        "search": ORANGE,
    }
    names = [name for name in colours if summaries and name in summaries[0].stage_seconds]
    if names:
        rates = [summary.rate for summary in summaries]
        times = [[summary.stage_seconds.get(name, 0) for summary in summaries] for name in names]
        labels = [name.replace("_queue", ", waiting") for name in names]
        axes.stackplot(rates, times, labels=labels, colors=[colours[name] for name in names], linewidth=0)


def _finish(axes: Axes, title: str, unit: str, knee: Knee | None) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("requests/s")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    if not axes.has_data():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
    elif knee and not knee.least:
        axes.axvline(knee.rate, color=VIOLET, linestyle=":", linewidth=1.5, label="knee")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
