"""Writes the Grafana dashboard: ``python deploy/grafana/dashboard.py``. The table of panels below is its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parents[1] / "helm/ofa-caption/files/dashboard.json"

RELEASE = 'release=~"$release"'
MODEL = f'{RELEASE}, model=~"$model"'
INTERACTIVE = f'{MODEL}, priority="interactive"'
WIDTH, HEIGHT, COLUMNS = 8, 8, 24


@dataclass(frozen=True)
class Panel:
    """A graph: its title, unit, what a reader learns, and its queries by legend."""

    title: str
    unit: str
    text: str
    queries: dict[str, str]
    stacked: bool = False


def quantile(share: str, metric: str, by: str = "", match: str = MODEL) -> str:
    """A quantile of a histogram, over all servers."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{match}}}[$__rate_interval])))"


def rate(metric: str, match: str = MODEL, by: str = "") -> str:
    """A counter's rate, summed."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{match}}}[$__rate_interval]))"


ROWS: dict[str, list[Panel]] = {
    "What users see": [
        Panel(
            "Requests by code",
            "reqps",
            "Answers a second. OK is a caption, CANCELLED was soon given up; the other codes are the contract's.",
            {"{{code}}": rate("ofa_requests_total", by="code")},
            stacked=True,
        ),
        Panel(
            "Failed requests",
            "percentunit",
            "Share of interactive requests refused as OVERLOADED, late, or INTERNAL; the objective is 0.1 %.",
            {
                "failed {{release}}": rate(
                    "ofa_requests_total", f'{INTERACTIVE}, code=~"OVERLOADED|DEADLINE_EXCEEDED|INTERNAL"', by="release"
                )
                + " / "
                + rate("ofa_requests_total", INTERACTIVE, by="release")
            },
        ),
        Panel(
            "Time to a caption",
            "s",
            "Of interactive requests, from arrival to answer, by release; the objective is 99 % within 2.5 s.",
            {
                f"{name} {{{{release}}}}": quantile(q, "ofa_request_duration_seconds", "release", INTERACTIVE)
                for name, q in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"))
            },
        ),
    ],
    "Where the time goes": [
        Panel(
            "Mean time in each stage",
            "s",
            "Stacked: together the mean time of an image. The _queue stages are waiting.",
            {
                "{{stage}}": rate("ofa_stage_duration_seconds_sum", by="stage")
                + " / "
                + rate("ofa_stage_duration_seconds_count", by="stage")
            },
            stacked=True,
        ),
        Panel(
            "95th percentile of each stage",
            "s",
            "The slow end of each stage by itself.",
            {"{{stage}}": quantile("0.95", "ofa_stage_duration_seconds", by="stage")},
        ),
        Panel(
            "Waiting ÷ computing",
            "none",
            "What autoscaling keeps at 0.5; above 1 images wait longer than they are worked on.",
            {
                "ratio": rate("ofa_stage_duration_seconds_sum", f'{MODEL}, stage=~".+_queue"')
                + " / "
                + rate("ofa_stage_duration_seconds_sum", f'{MODEL}, stage!~".+_queue"')
            },
        ),
    ],
    "Load": [
        Panel(
            "Images in flight",
            "none",
            "At the limit, one more is OVERLOADED.",
            {
                "in flight": f"sum(ofa_images_in_flight{{{MODEL}}})",
                "limit": f"sum(ofa_images_in_flight_limit{{{MODEL}}})",
            },
        ),
        Panel(
            "Captions at the beam search",
            "none",
            "Waiting to join the running search, and in it.",
            {
                "waiting": f"sum(ofa_captions_waiting{{{RELEASE}}})",
                "searching": f"sum(ofa_captions_searching{{{RELEASE}}})",
            },
            stacked=True,
        ),
        Panel(
            "Images in flight by server",
            "none",
            "Even lines are an even balance.",
            {"{{instance}}": f"sum by (instance) (ofa_images_in_flight{{{MODEL}}})"},
        ),
    ],
    "Batching": [
        Panel(
            "Hypotheses a decoder step",
            "none",
            "The mean batch of the beam search: captions that are searched together, times their beams.",
            {"rows a step": rate("ofa_search_rows_total", RELEASE) + " / " + rate("ofa_search_steps_total", RELEASE)},
        ),
        Panel(
            "Images an encoder run",
            "none",
            "The mean batch that Triton's dynamic batcher forms.",
            {
                "images a run": rate("nv_inference_count", f'{RELEASE}, model=~".*_encoder"')
                + " / "
                + rate("nv_inference_exec_count", f'{RELEASE}, model=~".*_encoder"')
            },
        ),
        Panel(
            "Decoder steps and tokens",
            "cps",
            "Steps a second, and captions taken one token further a second.",
            {"steps": rate("ofa_search_steps_total", RELEASE), "tokens": rate("ofa_search_tokens_total", RELEASE)},
        ),
    ],
    "Server": [
        Panel(
            "Known image",
            "none",
            "The probes' captions in five minutes, by code. None for minutes: a model behind a ready server is dead.",
            {"{{code}}": f"sum by (code) (increase(ofa_canary_total{{{MODEL}}}[5m]))"},
        ),
        Panel(
            "Starts",
            "none",
            "Times a server has started again within half an hour; those of its launcher after a failure apart.",
            {
                "{{instance}}": f"sum by (instance) (changes(ofa_model_start_time_seconds{{{MODEL}}}[30m]))",
                "after a failure {{instance}}": "sum by (instance) "
                f"(increase(ofa_server_restarts_total{{{MODEL}}}[30m]))",
            },
        ),
        Panel(
            "Size of the images",
            "bytes",
            "Files as they arrive.",
            {name: quantile(q, "ofa_image_size_bytes", match=RELEASE) for name, q in (("p50", "0.5"), ("p95", "0.95"))},
        ),
        Panel(
            "Queue time of each model in Triton",
            "s",
            "Mean wait in Triton's own queues; the beam search's own queue is above.",
            {
                "{{model}}": "sum by (model) (rate(nv_inference_queue_duration_us[$__rate_interval])) / 1e6 / "
                "sum by (model) (rate(nv_inference_exec_count[$__rate_interval]))"
            },
        ),
        Panel(
            "Cache of encoded images",
            "percentunit",
            "Share of the images that were encoded before. Empty without --cache-mib.",
            {
                "found": "sum(rate(nv_cache_num_hits_per_model[$__rate_interval])) / (sum(rate("
                "nv_cache_num_hits_per_model[$__rate_interval])) + "
                "sum(rate(nv_cache_num_misses_per_model[$__rate_interval])))"
            },
        ),
        Panel(
            "Processor and memory",
            "percentunit",
            "Of the server's machine.",
            {
                "processor {{instance}}": "nv_cpu_utilization",
                "memory {{instance}}": "nv_cpu_memory_used_bytes / nv_cpu_memory_total_bytes",
            },
        ),
        Panel(
            "GPU",
            "percentunit",
            "Empty on a server without one.",
            {
                "busy {{gpu_uuid}}": "nv_gpu_utilization",
                "memory {{gpu_uuid}}": "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes",
            },
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "gridPos": place(0, top, COLUMNS, 1)})
        top += 1
        for index, panel in enumerate(row):
            x, y = index * WIDTH % COLUMNS, top + index * WIDTH // COLUMNS * HEIGHT
            panels.append(graph(panel, len(panels) + 1, place(x, y, WIDTH, HEIGHT)))
        top += -(-len(row) * WIDTH // COLUMNS) * HEIGHT
    return {
        "uid": "ofa-caption",
        "title": "OFA captioning",
        "tags": ["ofa", "triton"],
        "schemaVersion": 41,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [data_source(), variable("release", "Release"), variable("model", "Model")]},
        "panels": panels,
    }


def place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    """A panel's place on the grid of 24 columns."""
    return {"x": x, "y": y, "w": width, "h": height}


def graph(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    """A time series panel."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    style = {"fillOpacity": 25 if panel.stacked else 8, "showPoints": "never", "lineWidth": 1}
    if panel.stacked:
        style["stacking"] = {"mode": "normal"}
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "gridPos": position,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": style}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def data_source() -> dict[str, Any]:
    """Lets a reader choose the Prometheus."""
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def variable(label: str, title: str) -> dict[str, Any]:
    """Lets a reader choose releases, or the checkpoints they serve. Compose has no releases: there "all" is none."""
    return {
        "name": label,
        "type": "query",
        "label": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values(ofa_requests_total, {label})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> None:
    """Writes the file that the chart and compose use."""
    OUTPUT.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
