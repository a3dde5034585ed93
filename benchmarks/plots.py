"""A run's figures as pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt


def floor_ms(results: dict, dtype: str) -> float:
    """One caption's arithmetic at the rate of this machine's matrix products."""
    return results["gflop_a_caption"] / results["ceiling_gflops"][dtype] * 1e3


def plot_stages(results: dict, path: Path) -> None:
    """One request's latency by stage, and the arithmetic floors."""
    servers = results["servers"]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.6 * len(servers)), layout="constrained")
    lefts = dict.fromkeys(servers, 0.0)
    for stage in next(iter(servers.values()))["stages_ms"]:
        widths = [servers[name]["stages_ms"][stage] for name in servers]
        axes.barh(list(servers), widths, left=list(lefts.values()), label=stage.replace("_", " "))
        lefts = {name: lefts[name] + width for name, width in zip(servers, widths, strict=True)}
    for dtype, style in (("fp32", ":"), ("bf16", "--")):
        axes.axvline(floor_ms(results, dtype), linestyle=style, color="black", label=f"arithmetic floor, {dtype}")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of one request")
    axes.set_title(f"OFA-{results['size']}, {results['image_size']} pixels: where one caption's time goes")
    figure.legend(fontsize="small", ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_load(results: dict, path: Path) -> None:
    """Throughput, and p50 and p99, against requests in flight."""
    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (name, load) in enumerate(results["load"].items()):
        in_flight = [int(count) for count in load["closed"]]
        figures = list(load["closed"].values())
        rates.plot(in_flight, [each["captions_per_second"] for each in figures], "o-", color=f"C{number}", label=name)
        latencies.plot(in_flight, [each["p50_ms"] for each in figures], "o-", color=f"C{number}", label=f"{name}, p50")
        latencies.plot(in_flight, [each["p99_ms"] for each in figures], "o:", color=f"C{number}", label=f"{name}, p99")
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
