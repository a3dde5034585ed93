"""The figures as JSON, a Markdown table and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt


def write_report(results: dict, path: Path) -> None:
    """Writes ``path`` with the endings .json, .md and .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(_without_nan(results), indent=1, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text("\n".join(_lines(results, path.name)) + "\n")
    _plot(results, path.with_suffix(".png"))


def _without_nan(figures: object) -> object:
    """JSON has no number for what was not measured."""
    if isinstance(figures, dict):
        return {name: _without_nan(value) for name, value in figures.items()}
    return None if isinstance(figures, float) and math.isnan(figures) else figures


def _three_digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _lines(results: dict, name: str) -> Iterator[str]:
    machine, ways = results["machine"], results["ways"]
    first = next(iter(ways.values()))
    yield "# Other ways to serve the same captions"
    yield ""
    yield f"{machine['cores']} cores of {machine['processor']}, {results['date']}: `{results['command']}`"
    yield ""
    yield (
        f"Checkpoint `{results['checkpoint']}`, fp32. Medians; everybody took turns. *Alone* is one request at a time, "
        f"*crowd* {results['in_flight']} in flight, for about as long as the first one's; *arrivals* come at random "
        "moments at 60 % of the first one's throughput; who cannot keep up with them in most rounds has a dash. Ratios "
        "are to the first line."
    )
    yield ""
    header = ["alone, ms", "ratio", "crowd, captions/s", "ratio", "its p99, ms", "arrivals p99, ms", "first's captions"]
    yield f"| | {' | '.join(header)} |"
    yield "|---" * (len(header) + 1) + "|"
    for way, figures in ways.items():
        slower = figures["alone_ms"] / first["alone_ms"]
        share = figures["captions_per_second"] / first["captions_per_second"]
        cells = [
            way,
            f"{figures['alone_ms']:.1f}",
            f"{slower:.2f}",
            _three_digits(figures["captions_per_second"]),
            f"{share:.2f}",
            f"{figures['crowd_p99_ms']:.0f}",
            "-" if math.isnan(figures["arrivals_p99_ms"]) else f"{figures['arrivals_p99_ms']:.0f}",
            "yes" if figures["same_captions"] else "no",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"![latency alone, throughput in a crowd, and p99 of random arrivals]({name}.png)"


def _plot(results: dict, path: Path) -> None:
    ways = results["ways"]
    columns = {
        "alone_ms": "alone: milliseconds",
        "captions_per_second": f"{results['in_flight']} in flight: captions a second",
        "arrivals_p99_ms": "random arrivals: p99, milliseconds",
    }
    figure, panels = plt.subplots(1, 3, figsize=(12, 0.9 + 0.5 * len(ways)), sharey=True, layout="constrained")
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        bars = axes.barh(list(ways), [figures[column] for figures in ways.values()], color="C0")
        axes.bar_label(bars, fmt=_three_digits, padding=3)
        axes.margins(x=0.25)
        axes.set_title(title, fontsize="medium")
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)
