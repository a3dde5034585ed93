"""``make bench-ways``: what other ways to serve the same captions cost.

One checkpoint, the same images, everybody in turn, round after round: one request at a time (``alone``), a number of
them kept in flight (``crowd``), and arrivals at random moments, at one rate for all who can keep up with it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ofa_build.checkpoint import load_checkpoint
from ofa_serving.manifest import FILE_NAME, Manifest

from loadtest.loops import turns
from loadtest.servers import leave_in_order

from ..contenders import Contender
from ..machine import describe
from . import in_flight, static_batches, step_by_call
from .pytriton_function import PyTriton
from .report import write_report
from .torch_http import TorchHttp

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "images"
RESULTS = ROOT / "benchmarks" / "results"
BUNDLED = "ofa_caption"
WARM_UP = 3
UTILISATION = 0.6
"""Of the first one's throughput, for the arrivals."""

log = logging.getLogger("benchmarks.ways")


def main() -> int:
    """Measures and writes the report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave_in_order()
    flags = _flags()
    _check(flags.artifacts / flags.name, flags.checkpoint)
    artifact, images = (flags.artifacts / flags.name).absolute(), sorted(EXAMPLES.iterdir())
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=artifact.parent, prefix=".ways")))
        contenders: list[Contender] = [
            in_flight.way(artifact, work, flags.in_flight),
            static_batches.way(artifact, work / "static", flags.in_flight),
            step_by_call.way(artifact, work / "calls", flags.in_flight),
            PyTriton(artifact, flags.in_flight),
            TorchHttp(flags.checkpoint, flags.in_flight),
        ]
        captions, rates = {}, []
        for contender in contenders:
            log.info("starting %s", contender.name)
            stack.enter_context(contender)
            captions[contender.name] = [contender.caption(image) for image in images]
            rates.append(_crowd(contender, images * WARM_UP)["captions_per_second"])
        many = _requests(images, flags.requests, rates)
        rounds = [_round(contenders, images, many, number) for number in range(flags.rounds)]
    first = captions[contenders[0].name]
    results = {
        "command": " ".join(["python -m benchmarks.ways", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": describe(),
        "checkpoint": flags.name,
        "in_flight": flags.in_flight,
        "ways": {
            contender.name: {
                **_medians([figures[contender.name] for figures in rounds]),
                "same_captions": captions[contender.name] == first,
            }
            for contender in contenders
        },
    }
    write_report(results, flags.output)
    return 0


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ways", description=__doc__.partition(": ")[2])
    parser.add_argument("name", nargs="?", default=BUNDLED, help="a built checkpoint, on CPU in fp32")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "checkpoints" / "emoji", help="what it was built from"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=240, help="of the first one's crowd; of slower ones' fewer")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--output", type=Path, help="(default: benchmarks/results/ways, or ways-NAME)")
    flags = parser.parse_args()
    flags.output = flags.output or RESULTS / ("ways" if flags.name == BUNDLED else f"ways-{flags.name}")
    return flags


def _check(artifact: Path, checkpoint: Path) -> None:
    """Ends the command if the artifact is of another checkpoint than the one that PyTorch would run."""
    built, given = Manifest.read(artifact / FILE_NAME).checkpoint, load_checkpoint(str(checkpoint))
    if built.sha256 != given.sha256:
        sys.exit(f"{artifact} was built from {built.name}, not from {checkpoint}: give --checkpoint (CHECKPOINT=)")


def _requests(images: Sequence[Path], most: int, rates: Sequence[float]) -> list[list[Path]]:
    """Of each contender's crowd, by the rate of everybody in turn: a slow one is not given longer than the first."""
    counts = [max(len(images), min(most, round(most * rate / rates[0]))) for rate in rates]
    return [[images[index % len(images)] for index in range(count)] for count in counts]


def _round(
    contenders: Sequence[Contender], images: Sequence[Path], many: Sequence[Sequence[Path]], number: int
) -> dict[str, dict]:
    """Everybody once, another one first in every round; arrivals when the first contender's throughput is known."""
    figures = {}
    in_turn = turns(list(zip(contenders, many, strict=True)), number)
    for contender, crowd in in_turn:
        alone = contender.latency(images)
        figures[contender.name] = {"alone_ms": statistics.median(alone) * 1e3, **_crowd(contender, crowd)}
    rate = UTILISATION * figures[contenders[0].name]["captions_per_second"]
    for contender, crowd in in_turn:
        mine = figures[contender.name]
        keeps_up = mine["captions_per_second"] > rate
        mine["arrivals_p99_ms"] = _arrivals(contender, crowd, rate, number) if keeps_up else float("nan")
        log.info("round %d: %s: %s", number + 1, contender.name, {key: round(value, 1) for key, value in mine.items()})
    return figures


def _arrivals(contender: Contender, images: Sequence[Path], rate: float, seed: int) -> float:
    """The 99th percentile of latencies from when a request was due, in milliseconds."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(images)))
    begin = time.perf_counter()

    def ask(image: Path, moment: float) -> float:
        contender.caption(image)
        return time.perf_counter() - begin - moment

    with ThreadPoolExecutor(len(images)) as pool:
        answers = []
        for image, moment in zip(images, due, strict=True):
            time.sleep(max(0.0, begin + moment - time.perf_counter()))
            answers.append(pool.submit(ask, image, moment))
        return float(np.percentile([answer.result() for answer in answers], 99)) * 1e3


def _crowd(contender: Contender, images: Sequence[Path]) -> dict[str, float]:
    """Captions a second, and latencies, with the contender's number of requests in flight."""
    seconds = []

    def ask(image: Path) -> None:
        started = time.perf_counter()
        contender.caption(image)
        seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(contender.concurrency) as pool:
        list(pool.map(ask, images))
    whole = time.perf_counter() - started
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"captions_per_second": len(images) / whole, "crowd_p50_ms": p50, "crowd_p99_ms": p99}


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(_median([figures[key] for figures in rounds]), 2) for key in rounds[0]}


def _median(values: Sequence[float]) -> float:
    """Of those that were measured; of a few of them it would tell of the best rounds."""
    measured = [value for value in values if not math.isnan(value)]
    return statistics.median(measured) if 2 * len(measured) > len(values) else math.nan


if __name__ == "__main__":
    sys.exit(main())
