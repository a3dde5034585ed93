"""``python -m loadtest.throughput NAME``: what each batching, each protocol and a second server is worth, in one run.

The set-ups take turns, round after round, because machines drift; a figure is the median of the rounds. Throughput is
that of a server kept saturated (a closed loop, whose latencies mean nothing); latencies are an open loop's, from when a
request was due, at one rate for all. The generator's own limit is measured against a server that answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import logging
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ofa_client import AsyncCaptioner

from loadtest.loops import Outcome, closed_loop, open_loop, turns
from loadtest.mix import OK, default_mix
from loadtest.servers import QUIET, Served, leave_in_order, machine, served
from loadtest.variants import variant, without_dynamic_batching, without_inflight_batching

RESULT = Path(__file__).parent / "results/throughput.md"
IN_FLIGHT = 16
LATENCY_SHARE = 0.6
"""Latencies are taken at this share of the slowest set-up's throughput."""

logger = logging.getLogger("loadtest.throughput")


@dataclass
class SetUp:
    """Something to load: its name in the table, its addresses, and what each round came to."""

    name: str
    urls: Sequence[str]
    saturated: list[Outcome] = field(default_factory=list)
    open: list[Outcome] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Captions a second, the median of the rounds."""
        return statistics.median(outcome.per_second for outcome in self.saturated)

    @property
    def range(self) -> str:
        """The throughput of the slowest and of the fastest round."""
        figures = [outcome.per_second for outcome in self.saturated]
        return f"{min(figures):.1f}-{max(figures):.1f}"

    @property
    def refused(self) -> str:
        """How many requests of all rounds were refused, by code."""
        codes = sum((outcome.refusals for outcome in (*self.saturated, *self.open)), Counter())
        return ", ".join(f"{count} {code}" for code, count in codes.items()) or "none"

    def latency(self, percent: float) -> str:
        """Seconds, the median of the rounds that had any."""
        found = [seconds for outcome in self.open if (seconds := outcome.latency(percent)) is not None]
        return f"{statistics.median(found):.3f}" if found else "-"

    def lag(self) -> float:
        """The latest that a request was sent after it was due, in seconds."""
        return max((lag for outcome in self.open for lag in outcome.lags), default=0.0)


def main() -> int:
    """Measures, and writes the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave_in_order()
    parser = argparse.ArgumentParser(prog="loadtest.throughput", description=__doc__.partition(":")[0])
    parser.add_argument("name", nargs="?", default="ofa_caption", help="a built checkpoint")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--out", type=Path, default=RESULT)
    flags = parser.parse_args()
    with _set_ups(flags.artifacts / flags.name) as set_ups, _null_server() as nothing:
        asyncio.run(_measure(flags, [*set_ups, *nothing], len(set_ups)))
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(_table(flags, set_ups, nothing), encoding="utf-8")
    logger.info("%s", flags.out.read_text())
    return 0


@contextlib.contextmanager
def _set_ups(artifact: Path) -> Iterator[list[SetUp]]:
    """All servers, idle but for the one whose turn it is."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=artifact.parent, prefix=".variants")))

        def start(name: str = "", *changes: Callable[..., None]) -> Served:
            source = variant(artifact, folder / name, *changes).parent if changes else artifact.parent
            return stack.enter_context(served(artifact.name, source, QUIET))

        both, second = start(), start()
        yield [
            SetUp("both batchings, gRPC", [both.grpc]),
            SetUp("both batchings, HTTP", [both.http]),
            SetUp("no dynamic batching", [start("no-dynamic", without_dynamic_batching).grpc]),
            SetUp("no in-flight batching", [start("no-inflight", without_inflight_batching).grpc]),
            SetUp("neither batching", [start("neither", without_dynamic_batching, without_inflight_batching).grpc]),
            SetUp("both batchings, two servers", [both.grpc, second.grpc]),
        ]


@contextlib.contextmanager
def _null_server() -> Iterator[list[SetUp]]:
    command = [sys.executable, "-m", "loadtest.null_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        grpc, http = process.stdout.readline().split()
        yield [SetUp("the generator alone, gRPC", [grpc]), SetUp("the generator alone, HTTP", [http])]
        process.stdin.close()


async def _measure(flags: argparse.Namespace, set_ups: list[SetUp], real: int) -> None:
    images = [case.image for case in default_mix() if case.expected == OK and not case.options]
    async with contextlib.AsyncExitStack() as stack:
        captioners = [
            await stack.enter_async_context(AsyncCaptioner(set_up.urls, model=flags.name, retry=None))
            for set_up in set_ups
        ]
        for number in range(flags.rounds):
            in_turn = turns(list(zip(set_ups, captioners, strict=True)), number)
            for set_up, captioner in in_turn:
                set_up.saturated.append(await closed_loop(captioner, images, IN_FLIGHT, flags.seconds))
            rate = LATENCY_SHARE * min(set_up.throughput for set_up in set_ups[:real])
            for set_up, captioner in in_turn if rate else ():
                set_up.open.append(await open_loop(captioner, images, rate, flags.seconds, seed=number))


def _table(flags: argparse.Namespace, set_ups: Sequence[SetUp], nothing: Sequence[SetUp]) -> str:
    base = set_ups[0].throughput
    rate = LATENCY_SHARE * min(set_up.throughput for set_up in set_ups)
    rows = [
        f"| {set_up.name} | {set_up.throughput:.1f} | {set_up.range} | {_ratio(set_up.throughput, base)} "
        f"| {set_up.latency(50)} | {set_up.latency(99)} | {set_up.refused} |"
        for set_up in set_ups
    ]
    limits = [
        f"- {set_up.name}: {set_up.throughput:.0f} answers/s; at the open loop's rate sent at most "
        f"{set_up.lag() * 1e3:.0f} ms late, p99 {set_up.latency(99)} s"
        for set_up in nothing
    ]
    return "\n".join(
        [
            "# Throughput",
            "",
            f"`{flags.name}` on {machine()}, servers and load generator together; {datetime.date.today().isoformat()}.",
            f"`make throughput`: medians of {flags.rounds} rounds, {flags.seconds:g} s each, in which all take turns,",
            "the generator alone too: first in throughput, then in latency; in each another one begins. Throughput",
            f"with {IN_FLIGHT} requests in flight; latencies in an open loop of about {rate:.1f} requests/s",
            f"({LATENCY_SHARE:.0%} of the slowest), from when a request was due.",
            "",
            "| set-up | captions/s | rounds | of the first | p50 s | p99 s | refused |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "The load generator's own limit, against a server that answers at once on the same machine:",
            "",
            *limits,
            "",
        ]
    )


def _ratio(throughput: float, base: float) -> str:
    return f"{throughput / base:.2f}" if base else "-"


if __name__ == "__main__":
    sys.exit(main())
