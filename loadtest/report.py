"""The report: one HTML file with a verdict, a table and plots."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from loadtest.summary import Summary

_PAGE = """<!doctype html><meta charset="utf-8"><title>Load test</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem }} .passed {{ color: #187a3c }} .failed {{ color: #b3261e }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd }} img {{ width: 100% }}
</style>
<h1>Load test of {url}: <span class="{verdict}">{verdict}</span></h1>
{failures}<p>{text}</p>
<table><tr>{heads}</tr>{rows}</table>
<p><img src="data:image/png;base64,{plots}" alt="throughput, latency, batches and stage times against the rate"></p>
<p>Requests are sent at random moments at a mean rate, whatever became of earlier ones (open loop), and times count from
when a request was due.</p>
"""

_COLUMNS = {
    "requests/s": lambda s: f"{s.rate:.2f}",
    "answered/s": lambda s: f"{s.answered_per_second:.2f}",
    "p50 s": lambda s: f"{s.p50_seconds:.3f}",
    "p95 s": lambda s: f"{s.p95_seconds:.3f}",
    "p99 s": lambda s: f"{s.p99_seconds:.3f}",
    "wrong": lambda s: f"{s.wrong_share:.2%}",
    "rejected": lambda s: f"{s.rejected_share:.2%}",
    "rows/step": lambda s: f"{s.rows_a_step:.1f}",
    "images/encoder run": lambda s: f"{s.images_a_run:.2f}",
    "generator lag p99 s": lambda s: f"{s.generator_lag_p99_seconds:.3f}",
}


def write_report(path: Path, url: str, summaries: Sequence[Summary], failures: Sequence[str], text: str) -> None:
    """Writes the page to ``path``; ``text`` is what it says above the table."""
    cells = [[form(summary) for form in _COLUMNS.values()] for summary in summaries]
    page = _PAGE.format(
        url=html.escape(url),
        verdict="failed" if failures else "passed",
        failures="".join(f"<p class=failed>{html.escape(line)}</p>" for line in failures),
        text=html.escape(text),
        heads="".join(f"<th>{head}</th>" for head in _COLUMNS),
        rows="".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells),
        plots=_plots(summaries),
    )
    path.write_text(page, encoding="utf-8")


def _plots(summaries: Sequence[Summary]) -> str:
    figure, ((throughput, latency), (batches, stages)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    rates = [summary.rate for summary in summaries]
    throughput.plot(rates, rates, color="#bbb", linestyle="--", label="sent")
    throughput.plot(rates, [summary.answered_per_second for summary in summaries], marker="o", label="answered")
    _axes(throughput, "Throughput", "answers/s")
    for name in ("p50_seconds", "p95_seconds", "p99_seconds"):
        latency.plot(rates, [getattr(summary, name) for summary in summaries], marker="o", label=name[:3])
    latency.set_yscale("log")
    _axes(latency, "Time to a caption", "s")
    batches.plot(rates, [summary.rows_a_step for summary in summaries], marker="o", label="hypotheses a decoder step")
    batches.plot(rates, [summary.images_a_run for summary in summaries], marker="o", label="images an encoder run")
    _axes(batches, "Mean batch", "")
    names = list(summaries[0].stage_seconds)
    if names:
        times = [[summary.stage_seconds.get(name, 0) for summary in summaries] for name in names]
        stages.stackplot(rates, times, labels=names, alpha=0.8)
    _axes(stages, "Mean time in each stage", "s")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return base64.b64encode(out.getvalue()).decode()


def _axes(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("requests/s")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
