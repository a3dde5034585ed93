"""The figures of a run as JSON, Markdown tables and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .plots import floor_ms, plot_floor, plot_load, plot_stages


def write_report(results: dict, path: Path) -> None:
    """Writes ``path`` with the endings .json, .md, -stages.png, -floor.png and -load.png."""
    write_figures(results, path)
    path.with_suffix(".md").write_text("\n".join(_lines(results, path.name)) + "\n")
    plot_stages(results, path.with_name(f"{path.name}-stages.png"))
    plot_floor(results, path.with_name(f"{path.name}-floor.png"))
    plot_load(results, path.with_name(f"{path.name}-load.png"))


def write_figures(results: dict, path: Path) -> None:
    """Writes ``path`` with the ending .json: all that is measured so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def _lines(results: dict, name: str) -> Iterable[str]:
    machine = results["machine"]
    pixels, where = results["image_size"], _WHERE[results["device"]]
    yield f"# OFA-{results['size']}, {pixels} x {pixels}, beam 5{where}"
    yield ""
    instructions = ", ".join(machine["instructions"])
    gpu = f"{machine['gpu']}; " if results["device"] == "gpu" else ""
    yield f"{gpu}{machine['cores']} cores of {machine['processor']} ({instructions}), {results['date']}."
    yield f"`{results['command']}`"
    yield ""
    rates = (
        f"{rate:.0f} GFLOP/s in {precision}, so that they take {floor_ms(results, precision):.3g} ms"
        for precision, rate in results["ceiling_gflops"].items()
    )
    yield f"One caption is {results['gflop_a_caption']} GFLOP. Matrix products run at {'; at '.join(rates)}."
    for contender, figures in results["contenders"].items():
        if figures["versions"]:
            versions = ", ".join(f"{package} {version}" for package, version in figures["versions"].items())
            yield f"{contender} ran on {versions}."
    for title, (way, table) in _TABLES.items():
        yield from ("", f"## {title}", "", way, "", *table(results))
    for plot in ("stages", "floor", "load"):
        yield from ("", f"![{plot}]({name}-{plot}.png)")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def _comparison(results: dict) -> Iterable[str]:
    peer = results["contenders"].get("ModelScope")
    rows = []
    for name, figures in results["contenders"].items():
        latency, rate, spread = figures["latency_ms"], figures["captions_per_second"], "-"
        if latency is not None:
            spread = f"{latency:.0f} ({figures['latency_ms_least']:.0f}-{figures['latency_ms_most']:.0f})"
        row = [name, spread, _ratio(rate, 1, ".2f")]
        if peer:
            row += [
                _ratio(peer["latency_ms"], latency, ".1f", "x"),
                _ratio(rate, peer["captions_per_second"], ".1f", "x"),
            ]
        row.append(_ratio(latency, floor_ms(results, figures["precision"]), ".1f"))
        rows.append([*row, "yes" if results["same_caption_as_first"][name] else "no"])
    ratios = ["latency, ModelScope's to this", "throughput, this to ModelScope's"] if peer else []
    header = ["", "latency, ms (least-most)", "captions/s", *ratios, "latency to floor", "the first's caption"]
    yield from _table(header, rows)


def _ratio(above: float | None, below: float | None, form: str, unit: str = "") -> str:
    """A dash if one of them was not measured."""
    return "-" if above is None or below is None else f"{above / below:{form}}{unit}"


def _servers(results: dict) -> Iterable[str]:
    rows = []
    for name, figures in results["servers"].items():
        stages = figures["stages_ms"]
        engines = stages["encode"] + stages["search"]
        outside = 1 - engines / figures["latency_ms"]
        listed = ", ".join(f"{stage.replace('_', ' ')} {ms:.1f}" for stage, ms in stages.items())
        size = results["engines"][name]["size_mib"]
        rows.append([name, figures["start_seconds"], figures["resident_mib"], size, listed, f"{outside:.0%}"])
    header = ["", "ready after, s", "memory, MiB", "engines, MiB", "stages of a request, ms", "outside both engines"]
    yield from _table(header, rows)


def _load(results: dict) -> Iterable[str]:
    rows = []
    for name, load in results["load"].items():
        for in_flight, figures in load["closed"].items():
            rows.append([name, f"{in_flight} in flight", *_answers(figures)])
        poisson = load["poisson"]
        rows.append([name, f"Poisson, {poisson['rate']:.2f}/s due", *_answers(poisson)])
    yield from _table(["", "load", "captions/s", "p50, ms", "p99, ms", "captions", "refused"], rows)


def _answers(figures: dict) -> list[object]:
    keys = ("captions_per_second", "p50_ms", "p99_ms", "requests", "refused")
    return ["-" if figures[key] is None else figures[key] for key in keys]


def _engines(results: dict) -> Iterable[str]:
    rows = []
    for name, engine in results["engines"].items():
        encoder = engine["encoder"]
        rows.append([name, "encoder", *map(_short, encoder.values())])
        for beam, times in engine["search"].items():
            rows.append([name, f"search, beam {beam}", *map(_short, times.values())])
        both = (1e3 / (encoder[batch] + engine["search"]["5"][batch]) for batch in encoder)
        rows.append([name, "captions/s, beam 5", *map(_short, both)])
    batches = next(iter(results["engines"].values()))["encoder"]
    yield from _table(["", "ms an image, batch of", *batches], rows)


def _short(figure: float) -> str:
    return f"{figure:.3g}" if figure < 100 else f"{figure:.0f}"


_WHERE = {"cpu": "", "gpu": ", on a GPU", "host": ", a GPU's engines on the host: not a measurement of them"}

_TABLES = {
    "JPEG bytes in, caption out": (
        "In turns: medians of rounds in which everybody was measured, another one first in each.",
        _comparison,
    ),
    "Servers": (
        "In one pass after that, one server after the other while all were up; medians of the images.",
        _servers,
    ),
    "Load": ("In one pass after that, one server after the other while all were up.", _load),
    "Engines alone": ("In one pass, one engine after the other when the servers had stopped; medians.", _engines),
}
