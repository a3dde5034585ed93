"""``make bench``: one size, several contenders, alternating; JSON, a Markdown table and plots are written.

python -m benchmarks.run --size tiny --contenders onnxruntime:fp32 openvino:bf16 --peer .venv-modelscope/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from ofa_client import CaptionServiceError
from ofa_serving.contract import STAGES

from loadtest.loops import turns
from loadtest.servers import leave_in_order

from .arithmetic import gflop_a_caption
from .ceiling import ceilings
from .checkpoints import SIZES, config_of, write_random
from .contenders import Contender, ModelScope, Server
from .engines import measure_engines
from .images import write_images
from .load import measure_load, milliseconds
from .machine import describe, fast_precisions
from .report import write_figures, write_report

Figures = TypeVar("Figures")

BEAM = 5
USUAL = (8, 64)
SMALL = {"large": (2, 4), "huge": (1, 1)}
"""Requests in flight, and images of the largest batch. On few cores more of a large model would miss the server's
deadline of 30 s, and 64 images want more memory than such machines have."""


def main() -> None:
    """Measures and writes the report."""
    leave_in_order()
    flags = _flags()
    work = flags.work or Path(tempfile.mkdtemp(prefix="bench."))
    work = work / f"{flags.size}-{flags.image_size}"
    checkpoint = write_random(flags.size, work / "checkpoint", flags.image_size)
    images = write_images(work / "images", flags.images)
    prefix = "" if flags.device == "cpu" else f"{flags.device}-"
    output = flags.output / f"{prefix}{flags.size}-{flags.image_size}"
    invited: list[Contender] = [
        Server(checkpoint, *contender.split(":"), work, flags.concurrency, flags.device, images)
        for contender in flags.contenders
    ]
    if flags.peer:
        invited.append(ModelScope(checkpoint, flags.peer))
    with contextlib.ExitStack() as stack:
        captions = {}
        for contender in invited:
            caption = _first_caption(contender, images[0], stack)
            if caption is not None:
                captions[contender.name] = caption
        contenders = [contender for contender in invited if contender.name in captions]
        if not contenders:
            sys.exit("no contender captions anything: see above")
        servers = [contender for contender in contenders if isinstance(contender, Server)]
        rounds = [_round(contenders, images, flags.repeats, number, flags.device) for number in range(flags.rounds)]
        results = {
            "command": " ".join(["python -m benchmarks.run", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "machine": describe(),
            "size": flags.size,
            "image_size": flags.image_size,
            "device": flags.device,
            "gflop_a_caption": round(gflop_a_caption(config_of(flags.size), flags.image_size, BEAM), 1),
            "ceiling_gflops": {
                precision: round(statistics.median(figures["ceilings"][precision] for figures in rounds), 1)
                for precision in rounds[0]["ceilings"]
            },
            "contenders": {
                contender.name: _summary(contender, rounds, _requests(contender, images, flags.repeats))
                for contender in contenders
            },
            "servers": {
                server.name: figures
                for server in servers
                if (figures := _measured(lambda: _server_figures(server, images)))  # noqa: B023
            },
            "load": {
                server.name: measure_load(server.served.grpc, server.model, images, flags.load_seconds, flags.device)
                for server in servers
            },
            "same_caption_as_first": {name: text == captions[contenders[0].name] for name, text in captions.items()},
        }
    write_figures(results | {"engines": {}}, output)
    _say("the engines alone")
    results["engines"] = {
        server.name: measure_engines(
            server.repository, server.model, flags.image_size, flags.device, flags.largest_batch
        )
        for server in servers
    }
    write_report(results, output)
    if len(contenders) < len(invited):
        sys.exit("not all contenders started: see above")


def _first_caption(contender: Contender, image: Path, stack: contextlib.ExitStack) -> str | None:
    """Builds and starts it; None if that fails, for whatever reason: a run goes on without it."""
    _say(f"starting {contender.name}")
    try:
        return stack.enter_context(contender).caption(image)
    except Exception as error:
        _say(f"{contender.name} does not start: {type(error).__name__}: {error}")
        return None


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--image-size", type=int, default=480)
    parser.add_argument("--device", choices=("cpu", "gpu", "host"), default="cpu", help="host: a GPU's engines without")
    cpu = ["onnxruntime:fp32", *(f"openvino:{precision}" for precision in fast_precisions())]
    parser.add_argument("--contenders", nargs="+", default=cpu, help="(default here: %(default)s)")
    parser.add_argument("--peer", type=Path, help="Python of an environment with ModelScope")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=8, help="in each round")
    parser.add_argument("--repeats", type=int, default=1, help="of the images, where throughput is a server's")
    parser.add_argument("--concurrency", type=int, help="requests in flight for throughput")
    parser.add_argument("--load-seconds", type=float, default=15, help="of each number of requests in flight")
    parser.add_argument("--largest-batch", type=int, help="of the engines alone")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, help="keeps checkpoints and engines here, for the next run")
    flags = parser.parse_args()
    concurrency, largest_batch = SMALL.get(flags.size, USUAL) if flags.device == "cpu" else USUAL
    flags.concurrency = flags.concurrency or concurrency
    flags.largest_batch = flags.largest_batch or largest_batch
    return flags


def _requests(contender: Contender, images: list[Path], repeats: int) -> list[Path]:
    """What it is asked for when its throughput is measured: a crowd takes the images several times over."""
    return images * (repeats if contender.concurrency > 1 else 1)


def _round(contenders: list[Contender], images: list[Path], repeats: int, number: int, device: str) -> dict:
    """Everybody once, another one first in every round, and the machine's ceiling."""
    figures: dict = {"ceilings": ceilings(device)}
    for contender in turns(contenders, number):
        latency = _measured(lambda: statistics.median(contender.latency(images[: len(images) // 2])))  # noqa: B023
        throughput = _measured(lambda: contender.throughput(_requests(contender, images, repeats)))  # noqa: B023
        figures[contender.name] = (latency, throughput)
        told = (f"{figure:.2f}" if figure else "-" for figure in (latency, throughput))
        _say(f"round {number + 1}: {contender.name}: {next(told)} s, {next(told)} captions/s")
    return figures


def _measured(measure: Callable[[], Figures]) -> Figures | None:
    """None, and a line, if a request was refused: the other figures are wanted all the same."""
    try:
        return measure()
    except CaptionServiceError as error:
        _say(str(error))
        return None


def _summary(contender: Contender, rounds: list[dict], requests: list[Path]) -> dict[str, object]:
    latencies, throughputs = zip(*(figures[contender.name] for figures in rounds), strict=True)
    rate = _over(statistics.median, throughputs)
    return {
        "latency_ms": milliseconds(_over(statistics.median, latencies)),
        "latency_ms_least": milliseconds(_over(min, latencies)),
        "latency_ms_most": milliseconds(_over(max, latencies)),
        "captions_per_second": None if rate is None else round(rate, 3),
        "requests_in_flight": min(contender.concurrency, len(requests)),
        "requests_a_round": len(requests),
        "precision": contender.precision,
        "versions": contender.versions,
    }


def _over(rounds: Callable[[list[float]], float], figures: Sequence[float | None]) -> float | None:
    """Over the rounds that were measured."""
    measured = [figure for figure in figures if figure is not None]
    return rounds(measured) if measured else None


def _server_figures(server: Server, images: list[Path]) -> dict:
    seconds, stages = zip(*(server.stages(image) for image in images), strict=True)
    return {
        "start_seconds": round(server.served.start_seconds, 1),
        "resident_mib": server.resident_bytes() >> 20,
        "stages_ms": dict(zip(STAGES, np.median(stages, axis=0).round(1).tolist(), strict=True)),
        "latency_ms": round(statistics.median(seconds) * 1e3, 1),
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
