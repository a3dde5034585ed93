"""The figures of a run as JSON, a Markdown table and a plot."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt


def write_report(results: dict, path: Path) -> None:
    """Writes ``path`` with the endings .json, .md and .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(_table(results))
    _plot(results, path.with_suffix(".png"))


def _floor_ms(results: dict, dtype: str) -> float:
    return results["gflop_a_caption"] / results["ceiling_gflops"][dtype] * 1e3


def _table(results: dict) -> str:
    machine, peer = results["machine"], results["contenders"].get("ModelScope")
    lines = [
        f"# OFA-{results['size']}, {results['image_size']} x {results['image_size']}, beam 5",
        "",
        f"{machine['cores']} cores of {machine['processor']} ({', '.join(machine['instructions'])}), "
        f"{results['date']}.",
        f"`{results['command']}`",
        "",
        f"Matrix products: {results['ceiling_gflops']['fp32']} GFLOP/s fp32, {results['ceiling_gflops']['bf16']} bf16; "
        f"one caption's {results['gflop_a_caption']} GFLOP take {_floor_ms(results, 'fp32'):.0f} ms and "
        f"{_floor_ms(results, 'bf16'):.0f} ms at that rate.",
        "",
        "| | latency, ms (least-most) | captions/s | latency against ModelScope | throughput against ModelScope |",
        "|---|---|---|---|---|",
    ]
    for name, figures in results["contenders"].items():
        ratios = ("", "")
        if peer:
            ratios = (
                f"{peer['latency_ms'] / figures['latency_ms']:.1f}x",
                f"{figures['captions_per_second'] / peer['captions_per_second']:.1f}x",
            )
        spread = f"{figures['latency_ms_least']:.0f}-{figures['latency_ms_most']:.0f}"
        cells = (name, f"{figures['latency_ms']:.0f} ({spread})", f"{figures['captions_per_second']:.2f}", *ratios)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| server | ready after, s | memory, MiB | stages, ms |", "|---|---|---|---|"]
    for name, figures in results["servers"].items():
        stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in figures["stages_ms"].items())
        lines.append(f"| {name} | {figures['start_seconds']} | {figures['resident_mib']} | {stages} |")
    return "\n".join(lines) + "\n"


def _plot(results: dict, path: Path) -> None:
    """One request's latency by stage, and the arithmetic floors."""
    servers = results["servers"]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.6 * len(servers)), layout="constrained")
    lefts = dict.fromkeys(servers, 0.0)
    for stage in next(iter(servers.values()))["stages_ms"]:
        widths = [servers[name]["stages_ms"][stage] for name in servers]
        axes.barh(list(servers), widths, left=list(lefts.values()), label=stage.replace("_", " "))
        lefts = {name: lefts[name] + width for name, width in zip(servers, widths, strict=True)}
    for dtype, style in (("fp32", ":"), ("bf16", "--")):
        axes.axvline(_floor_ms(results, dtype), linestyle=style, color="black", label=f"arithmetic floor, {dtype}")
    axes.set_xlabel("milliseconds of one request")
    axes.set_title(f"OFA-{results['size']}, {results['image_size']} pixels: where one caption's time goes")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
