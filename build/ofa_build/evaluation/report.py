"""An evaluation as JSON, as a Markdown table, and as an HTML page of images, worst first."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image, ImageOps

from .evaluate import Evaluation, Judged
from .metrics import METRICS

_THUMBNAIL = 320
"""Pixels of the longer side at most."""


@dataclass(frozen=True)
class Paths:
    """Where a report lies."""

    json: Path
    markdown: Path
    html: Path


def write_report(evaluation: Evaluation, folder: Path, title: str, shown: int = 200) -> Paths:
    """Write ``scores.json``, ``scores.md`` and ``report.html``; the page shows the ``shown`` worst images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = Paths(folder / "scores.json", folder / "scores.md", folder / "report.html")
    paths.json.write_text(json.dumps(_as_json(evaluation, title), indent=2, ensure_ascii=False) + "\n", "utf-8")
    paths.markdown.write_text(markdown(evaluation, title), "utf-8")
    paths.html.write_text(_page(evaluation, title, shown), "utf-8")
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
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(judged.record.read()))).convert("RGB")
    except (OSError, ValueError):
        return ""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
