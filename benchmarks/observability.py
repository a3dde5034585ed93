"""What metrics, request logs and traces cost: ``python -m benchmarks.observability``.

Servers of one checkpoint, from one that tells nothing to one that tells everything, caption the same images in turns,
one image at a time over gRPC: so a request is at its shortest, and what is told of it weighs most. The result is the
ratio of the medians to the server that tells nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import numpy as np
from ofa_client import AsyncCaptioner
from ofa_serving.contract import Names
from ofa_serving.launcher.endpoints import open_directly

from loadtest.mix import OK, default_mix
from loadtest.servers import QUIET, Served, leave_in_order, machine, served
from loadtest.variants import variant

HERE = Path(__file__).parent
SCRAPE_SECONDS = 1
WARM_UP = 5
NOTHING = "nothing"
METRICS = ("--request-log=none",)
LOGS = ("--log-format=json", "--request-log=all")

One = TypeVar("One")

logger = logging.getLogger("benchmarks.observability")


def main() -> int:
    """Measures and writes the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave_in_order()
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("name", nargs="?", default="ofa_caption", help="a built checkpoint")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--out", type=Path, default=HERE / "results/observability.md")
    flags = parser.parse_args()
    with _servers(flags.name) as servers:
        seconds = asyncio.run(_measure(flags, servers))
    report = _report(flags, seconds)
    logger.info("%s", report)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(report, encoding="utf-8")
    return 0


@contextlib.contextmanager
def _servers(name: str) -> Iterator[dict[str, Served]]:
    """All of them, by what they tell; those that count are scraped."""
    artifacts = Path("artifacts").absolute()
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(_collector())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=artifacts, prefix=".uncounted")))
        variant(artifacts / name, folder, uncounted)
        telling = {
            "metrics": METRICS,
            "and a log line a stage": LOGS,
            "and traces of 1 request in 100": (*LOGS, f"--trace-url={collector}", "--trace-every=100"),
            "and traces of every request": (*LOGS, f"--trace-url={collector}", "--trace-every=1"),
        }
        servers = {NOTHING: stack.enter_context(served(name, folder, QUIET))}
        for what, more in telling.items():
            servers[what] = stack.enter_context(served(name, artifacts, (*QUIET, *more)))
            stack.enter_context(_scrapes(servers[what]))
        yield servers


def uncounted(repository: Path, names: Names) -> None:
    """A change of a variant: its Python models tell nothing of their requests."""
    muting = (HERE / "uncounted.py").read_text(encoding="utf-8")
    for name in (names.public, names.preprocess, names.beam_search):
        model = repository / name / "1/model.py"
        text = model.read_text(encoding="utf-8")
        model.unlink()
        model.write_text(f"{muting}\n{text}", encoding="utf-8")


async def _measure(flags: argparse.Namespace, servers: dict[str, Served]) -> dict[str, list[float]]:
    """The seconds of each server's captions, turn by turn."""
    images = [case.image for case in default_mix() if case.expected == OK and not case.options]
    seconds: dict[str, list[float]] = {what: [] for what in servers}
    async with contextlib.AsyncExitStack() as stack:
        captioners = [
            (what, await stack.enter_async_context(AsyncCaptioner(server.grpc, model=flags.name, retry=None)))
            for what, server in servers.items()
        ]
        for number, turn in enumerate(_turns(captioners, flags.turns + WARM_UP)):
            for what, captioner in turn:
                started = time.monotonic()
                await captioner.caption(images[number % len(images)])
                seconds[what].append(time.monotonic() - started)
    return {what: column[WARM_UP:] for what, column in seconds.items()}


def _turns(servers: Sequence[One], count: int) -> Iterator[list[One]]:
    """All of them, in an order of each turn's own: in rotation each would always follow the same one and its traces."""
    chance = random.Random(0)
    for _ in range(count):
        yield chance.sample(servers, len(servers))


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    """Takes traces and drops them, in a process of its own."""
    command = [sys.executable, "-c", "from benchmarks.observability import collect; collect()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def collect() -> None:
    """Serves until standard input ends, having printed the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}/v1/traces\n")
    sys.stdout.flush()
    sys.stdin.read()


@contextlib.contextmanager
def _scrapes(server: Served) -> Iterator[None]:
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            with open_directly(server.metrics, timeout=10) as answer:
                answer.read()

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def _report(flags: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    rows = []
    for what, column in seconds.items():
        cost, low, high = _cost(column, seconds[NOTHING])
        median = statistics.median(column) * 1e3
        rows.append(f"| {what} | {median:.2f} | {cost:+.2%} | {low:+.2%} to {high:+.2%} |")
    return "\n".join(
        [
            "# What observability costs",
            "",
            f"`{flags.name}` on {machine()}; {datetime.date.today().isoformat()}; `make observability`: the servers",
            f"caption the same images in {flags.turns} turns, each in an order of its own, one at a time over gRPC,",
            f"end to end. Metrics are scraped every {SCRAPE_SECONDS} s. The interval holds 95 % of the ratios of",
            "bootstrapped medians.",
            "",
            "| told | median ms | cost | interval |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cost(values: Sequence[float], base: Sequence[float], draws: int = 1000) -> tuple[float, float, float]:
    """The ratio of medians less 1, and what 95 % of it lies between if turns are drawn anew."""
    pairs, chance = np.array([values, base]), np.random.default_rng(0)
    drawn = np.median(pairs[:, chance.integers(0, pairs.shape[1], (draws, pairs.shape[1]))], axis=2)
    low, high = np.percentile(drawn[0] / drawn[1], (2.5, 97.5))
    return float(np.median(values) / np.median(base) - 1), float(low - 1), float(high - 1)


if __name__ == "__main__":
    sys.exit(main())
