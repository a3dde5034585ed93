"""The report: one HTML file with the verdict, what was judged, plots and a table."""

from __future__ import annotations

import datetime
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from loadtest.knee import Knee
from loadtest.plots import plots
from loadtest.servers import machine
from loadtest.summary import Judgement, Summary

_PAGE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))

_COLUMNS = {
    "asked/s": lambda s: f"{s.asked:.2f}",
    "sent/s": lambda s: f"{s.rate:.2f}",
    "answered/s": lambda s: f"{s.answered_per_second:.2f}",
    "p50": lambda s: _seconds(s.p50_seconds),
    "p95": lambda s: _seconds(s.p95_seconds),
    "p99": lambda s: _seconds(s.p99_seconds),
    "wrong": lambda s: f"{s.wrong_share:.2%}",
    "rejected": lambda s: f"{s.rejected_share:.2%}",
    "captions/step": lambda s: _figure(s.captions_a_step, ".2f", "-"),
    "images/encoder run": lambda s: _figure(s.images_a_run, ".2f", "-"),
    "generator late, p99": lambda s: _seconds(s.generator_lag_p99_seconds),
}


@dataclass(frozen=True)
class Findings:
    """What a run came to.

    Attributes:
        url: of the server.
        shape: of the load, in words.
        summaries: one a step.
        judgements: of the thresholds.
        failures: what does not hold, a sentence each.
        knee: the highest rate that the server keeps up with; None if not even the lowest.
        text: what follows from that.
    """

    url: str
    shape: str
    summaries: Sequence[Summary]
    judgements: Sequence[Judgement]
    failures: Sequence[str]
    knee: Knee | None
    text: str

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.failures:
            return "failed"
        return "passed" if any(one.holds for one in self.judgements) else "not judged"


def write_report(path: Path, findings: Findings) -> None:
    """Writes the page to ``path``."""
    summaries = findings.summaries
    requests = sum(summary.requests for summary in summaries)
    page = _PAGE.substitute(
        verdict=findings.verdict,
        url=html.escape(findings.url),
        about=html.escape(f"{findings.shape}; {requests} requests; loaded from {machine()}; {_now()}"),
        text=html.escape(findings.text),
        failures="".join(f"<li>{html.escape(line)}</li>" for line in findings.failures),
        cards="".join(_card(name, value) for name, value in _key_figures(findings)),
        judgements="".join(_judgement(one) for one in findings.judgements),
        plots=plots(summaries, findings.knee),
        heads="".join(f"<th>{head}</th>" for head in _COLUMNS),
        rows="".join(_row([form(summary) for form in _COLUMNS.values()]) for summary in summaries),
    )
    path.write_text(page, encoding="utf-8")


def _key_figures(findings: Findings) -> list[tuple[str, str]]:
    first = findings.summaries[0]
    wrong = sum(summary.wrong_share * summary.requests for summary in findings.summaries)
    return [
        ("keeps up with", str(findings.knee or "no rate tried")),
        ("median, least load", _seconds(first.p50_seconds)),
        ("p99, least load", _seconds(first.p99_seconds)),
        ("most answered", f"{max(s.answered_per_second for s in findings.summaries):.1f} /s"),
        ("not as expected", f"{wrong:.0f} of {sum(s.requests for s in findings.summaries)}"),
    ]


def _card(name: str, value: str) -> str:
    return f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"


def _judgement(one: Judgement) -> str:
    mark = {True: "ok", False: "not", None: "unknown"}[one.holds]
    measured = one.holds is not None
    cells = (one.name, one.wanted, _figure(one.worst, ".3g"), f"{one.rate:g} requests/s" if measured else "")
    return f"<tr class={mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _figure(value: float | None, form: str, without: str = "not measured") -> str:
    return without if value is None else format(value, form)


def _seconds(value: float) -> str:
    if value == float("inf"):
        return "none"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
