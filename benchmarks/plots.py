"""A run's figures as pictures."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from ofa_serving.contract import STAGES


def floor_ms(results: dict, precision: str) -> float:
    """One caption's arithmetic at the rate of this machine's matrix products.

    An int8 engine computes in two types, and its convolutions alone in int8; it is held to the floor of bf16. What the
    machine has no products in, its engines compute in fp32.
    """
    rates = results["ceiling_gflops"]
    return results["gflop_a_caption"] / rates.get("bf16" if precision == "int8" else precision, rates["fp32"]) * 1e3


def plot_stages(results: dict, path: Path) -> None:
    """One request's latency by stage, and the arithmetic floors."""
    servers = results["servers"]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.6 * len(servers)), layout="constrained")
    lefts = dict.fromkeys(servers, 0.0)
    for stage in STAGES if servers else ():
        widths = [servers[name]["stages_ms"][stage] for name in servers]
        axes.barh(list(servers), widths, left=list(lefts.values()), label=stage.replace("_", " "))
        lefts = {name: lefts[name] + width for name, width in zip(servers, widths, strict=True)}
    for precision, style in zip(results["ceiling_gflops"], (":", "--"), strict=False):
        floor = floor_ms(results, precision)
        axes.axvline(floor, linestyle=style, color="black", label=f"arithmetic floor, {precision}")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of one request")
    axes.set_title(f"OFA-{results['size']}, {results['image_size']} pixels: where one caption's time goes")
    figure.legend(fontsize="small", ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_floor(results: dict, path: Path) -> None:
    """How many times longer than its arithmetic each contender takes for a caption, alone and in the crowd."""
    contenders = results["contenders"]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.7 * len(contenders)), layout="constrained")
    for offset, (what, key, of) in enumerate(
        (
            ("one request's latency", "latency_ms", lambda milliseconds: milliseconds),
            ("time a caption at full load", "captions_per_second", lambda rate: 1e3 / rate),
        )
    ):
        times = [
            math.nan if figures[key] is None else of(figures[key]) / floor_ms(results, figures["precision"])
            for figures in contenders.values()
        ]
        places = [number + 0.4 * offset - 0.2 for number in range(len(times))]
        axes.bar_label(axes.barh(places, times, 0.38, label=what), fmt="%.1f", padding=3)
    axes.set_yticks(range(len(contenders)), [f"{name} ({contenders[name]['precision']})" for name in contenders])
    axes.axvline(1, linestyle=":", color="black")
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("times the arithmetic, at the rate of this machine's matrix products in that precision")
    axes.set_title(f"OFA-{results['size']}, {results['image_size']} pixels: distance to the floor")
    figure.legend(fontsize="small", ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_load(results: dict, path: Path) -> None:
    """Throughput, and p50 and p99, against requests in flight."""
    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (name, load) in enumerate(results["load"].items()):
        in_flight = [int(count) for count in load["closed"]]
        figures = list(load["closed"].values())
        rates.plot(in_flight, [each["captions_per_second"] for each in figures], "o-", color=f"C{number}", label=name)
        for key, style in (("p50", "o-"), ("p99", "o:")):
            values = [math.nan if each[f"{key}_ms"] is None else each[f"{key}_ms"] for each in figures]
            latencies.plot(in_flight, values, style, color=f"C{number}", label=f"{name}, {key}")
    for axes, what in ((rates, "captions a second"), (latencies, "milliseconds")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(in_flight, [str(count) for count in in_flight])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("requests in flight")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(f"OFA-{results['size']}, {results['image_size']} pixels: one server under load")
    figure.savefig(path, dpi=110)
    plt.close(figure)
