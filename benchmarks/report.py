"""The figures of a run as JSON, Markdown tables and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .plots import floor_ms, plot_load, plot_stages


def write_report(results: dict, path: Path) -> None:
    """Writes ``path`` with the endings .json, .md, -stages.png and -load.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(_lines(results, path.name)) + "\n")
    plot_stages(results, path.with_name(f"{path.name}-stages.png"))
    plot_load(results, path.with_name(f"{path.name}-load.png"))


def _lines(results: dict, name: str) -> Iterable[str]:
    machine, ceiling = results["machine"], results["ceiling_gflops"]
    yield f"# OFA-{results['size']}, {results['image_size']} x {results['image_size']}, beam 5"
    yield ""
    instructions = ", ".join(machine["instructions"])
    yield f"{machine['cores']} cores of {machine['processor']} ({instructions}), {results['date']}."
    yield f"`{results['command']}`"
    yield ""
    yield (
        f"Matrix products: {ceiling['fp32']} GFLOP/s fp32, {ceiling['bf16']} bf16; one caption's "
        f"{results['gflop_a_caption']} GFLOP take {floor_ms(results, 'fp32'):.0f} ms and "
        f"{floor_ms(results, 'bf16'):.0f} ms at that rate. Medians; contenders took turns."
    )
    for title, table in _TABLES.items():
        yield from ("", f"## {title}", "", *table(results))
    yield from ("", f"![stages]({name}-stages.png)", "", f"![load]({name}-load.png)")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def _comparison(results: dict) -> Iterable[str]:
    peer = results["contenders"].get("ModelScope")
    rows = []
    for name, figures in results["contenders"].items():
        spread = f"{figures['latency_ms_least']:.0f}-{figures['latency_ms_most']:.0f}"
        row = [name, f"{figures['latency_ms']:.0f} ({spread})", f"{figures['captions_per_second']:.2f}"]
        if peer:
            row.append(f"{peer['latency_ms'] / figures['latency_ms']:.1f}x")
            row.append(f"{figures['captions_per_second'] / peer['captions_per_second']:.1f}x")
        rows.append([*row, "yes" if results["same_caption_as_first"][name] else "no"])
    ratios = ["latency, ModelScope's to this", "throughput, this to ModelScope's"] if peer else []
    yield from _table(["", "latency, ms (least-most)", "captions/s", *ratios, "the first's caption"], rows)


def _servers(results: dict) -> Iterable[str]:
    rows = []
    for name, figures in results["servers"].items():
        stages = figures["stages_ms"]
        engines = stages["encode"] + stages["search"]
        outside = 1 - engines / results["contenders"][name]["latency_ms"]
        listed = ", ".join(f"{stage.replace('_', ' ')} {ms:.1f}" for stage, ms in stages.items())
        size = results["engines"][name]["size_mib"]
        rows.append([name, figures["start_seconds"], figures["resident_mib"], size, listed, f"{outside:.0%}"])
    header = ["", "ready after, s", "memory, MiB", "engines, MiB", "stages, ms", "outside encode and search"]
    yield from _table(header, rows)


def _load(results: dict) -> Iterable[str]:
    rows = []
    for name, load in results["load"].items():
        for in_flight, figures in load["closed"].items():
            rows.append([name, f"{in_flight} in flight", *_answers(figures)])
        poisson = load["poisson"]
        rows.append([name, f"Poisson, {poisson['rate']:.2f}/s due", *_answers(poisson)])
    yield from _table(["", "load", "captions/s", "p50, ms", "p99, ms", "captions", "refused"], rows)


def _answers(figures: dict) -> list[float]:
    return [figures[key] for key in ("captions_per_second", "p50_ms", "p99_ms", "requests", "refused")]


def _engines(results: dict) -> Iterable[str]:
    rows = []
    for name, engine in results["engines"].items():
        rows.append([name, "encoder", *engine["encoder"].values()])
        rows += [[name, f"search, beam {beam}", *times.values()] for beam, times in engine["search"].items()]
    batches = next(iter(results["engines"].values()))["encoder"]
    yield from _table(["", "ms an image, batch of", *batches], rows)


_TABLES = {
    "JPEG bytes in, caption out": _comparison,
    "Servers": _servers,
    "Load": _load,
    "Engines alone": _engines,
}
