"""An evaluation as JSON, as a Markdown table, and as an HTML page of images, worst first."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from ofa_serving.images import load_pixels
from PIL import ExifTags, Image

from .evaluate import Evaluation, Judged
from .metrics import METRICS

_THUMBNAIL = 320
"""Pixels of the longer side at most."""

_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF's orientations whose width is the file's height."""


@dataclass(frozen=True)
class Paths:
    """Where a report lies."""

    json: Path
    markdown: Path
    html: Path


class ReportError(RuntimeError):
    """A report cannot be written; the message says where."""


def make_folder(folder: Path) -> None:
    """Make a report's folder, or see that one can be written: before anything is captioned for it.

    Raises:
        ReportError: if it cannot.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ReportError(f"no report can be written to {folder}: {error.strerror}") from error


def write_report(evaluation: Evaluation, folder: Path, title: str, shown: int = 200) -> Paths:
    """Write ``scores.json``, ``scores.md`` and ``report.html``; the page shows the ``shown`` worst images."""
    paths = Paths(folder / "scores.json", folder / "scores.md", folder / "report.html")
    for path, text in (
        (paths.json, json.dumps(_as_json(evaluation, title), indent=2, ensure_ascii=False) + "\n"),
        (paths.markdown, markdown(evaluation, title)),
        (paths.html, _page(evaluation, title, shown)),
    ):
        path.write_text(text, "utf-8", "backslashreplace")  # a file's name may be no UTF-8
    return paths


def markdown(evaluation: Evaluation, title: str) -> str:
    """Give the scores as a table, in the hundreds that papers write."""
    names = [name for name in METRICS if name in evaluation.scores.overall]
    values = [f"{100 * evaluation.scores.overall[name]:.1f}" for name in names]
    latency = ", ".join(f"{value:.0f} ms" for value in evaluation.speed.latency_ms.values())
    lines = [
        f"| | images | {' | '.join(names)} | exactly a reference | captions/s | p50, p95, p99 |",
        f"|---{'|---' * (len(names) + 4)}|",
        f"| {title} | {len(evaluation.judged)} | {' | '.join(values)} | {100 * evaluation.exact:.1f} % "
        f"| {evaluation.speed.captions_per_second:.1f} | {latency} |",
        "",
    ]
    lines += [f"{name} is not computed: {why}.\n" for name, why in evaluation.scores.absent.items()]
    if len(evaluation.bad):
        lines.append(f"{len(evaluation.bad)} records were skipped: {evaluation.bad.summary()}.\n")
    return "\n".join(lines)


def worst_first(evaluation: Evaluation) -> list[Judged]:
    """Order the images by CIDEr, or by the last metric there is."""
    key = "CIDEr" if "CIDEr" in evaluation.scores.each else list(evaluation.scores.each)[-1]
    return sorted(evaluation.judged, key=lambda one: one.scores[key])


def _as_json(evaluation: Evaluation, title: str) -> dict[str, Any]:
    return {
        "title": title,
        **evaluation.captioner,
        "images": len(evaluation.judged),
        "scores": dict(evaluation.scores.overall),
        "exact": evaluation.exact,
        "absent": dict(evaluation.scores.absent),
        "captions_per_second": evaluation.speed.captions_per_second,
        "latency_ms": evaluation.speed.latency_ms,
        "skipped": evaluation.bad.reasons,
        "captions": [
            {"name": one.record.name, "caption": one.caption, "references": one.record.captions, "scores": one.scores}
            for one in evaluation.judged
        ],
    }


def _page(evaluation: Evaluation, title: str, shown: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        evaluation=evaluation,
        overall={name: 100 * value for name, value in evaluation.scores.overall.items()},
        shown=[(one, _thumbnail(one)) for one in worst_first(evaluation)[:shown]],
    )


def _thumbnail(judged: Judged) -> str:
    """Give a small JPEG as a data address, or nothing for what cannot be drawn."""
    try:
        data = judged.record.read()
        pixels = load_pixels(data, _THUMBNAIL)  # as it was captioned, whatever its colours and metadata are
        picture = Image.open(io.BytesIO(data))
    except Exception:  # a data set's own reader may raise anything; the report is worth more than one picture
        return ""
    width, height = picture.size
    with contextlib.suppress(Exception):  # of damaged metadata Pillow raises many kinds
        if picture.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE:
            width, height = height, width
    scale = min(1.0, _THUMBNAIL / max(width, height))
    size = [max(1, round(side * scale)) for side in (width, height)]
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
