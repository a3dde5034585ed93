"""``python -m loadtest``: one load test, from its first request to its verdict; the exit code is 1 if it failed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loadtest.errors import LoadError
from loadtest.knee import conclusion, knee
from loadtest.mix import OK, default_mix
from loadtest.plan import LEFTOVERS, Plan
from loadtest.report import Findings, write_report
from loadtest.scraping import Scraper
from loadtest.servers import ServerError, leave_in_order, served, tied
from loadtest.shapes import steps_of
from loadtest.summary import Summary, failures, judge, read_results, summarise
from loadtest.thresholds import read_thresholds

HERE = Path(__file__).parent

logger = logging.getLogger("loadtest")


def main() -> int:
    """Runs Locust without its page, then judges and reports.

    Returns:
        0 if the thresholds hold or nothing was to be judged, 1 if not, 2 if the load could not be made.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave_in_order()
    flags = _flags()
    flags.out.mkdir(parents=True, exist_ok=True)
    for old in (path for pattern in LEFTOVERS for path in flags.out.glob(pattern)):
        old.unlink()
    try:
        thresholds = _thresholds(flags)
        with _server(flags) as plan, Scraper(flags.metrics_url) as scraper:
            begin = _make_load(plan, flags.out)
    except (ServerError, LoadError) as error:
        logger.error("%s", error)
        return 2
    results = read_results(flags.out)
    summaries = [
        summarise(step, begin, results, scraper.growth(begin + step.start, begin + step.end)) for step in plan.steps
    ]
    return _report(flags, plan, thresholds, summaries)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest", description=__doc__.partition(";")[0])
    parser.add_argument("--url", help="grpc://host:port or http://host:port; without it --model is served meanwhile")
    parser.add_argument("--metrics-url", help="of the one server behind --url; without it batches are not measured")
    parser.add_argument("--servers", type=int, help="how many stand behind --url; without it no knee is called one's")
    parser.add_argument("--model", default="ofa_caption")
    parser.add_argument("--shape", choices=("constant", "steps", "spike", "soak"), default="steps")
    parser.add_argument("--rate", type=float, default=2, help="requests a second; see loadtest/shapes.py")
    parser.add_argument("--seconds", type=float, default=20, help="how long, of steps each one")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the load")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that a request may take")
    parser.add_argument("--thresholds", type=Path, default=HERE / "thresholds.yaml")
    parser.add_argument(
        "--judged", type=float, help="the highest rate that is judged; without it --rate, of steps the thresholds' own"
    )
    parser.add_argument("--wanted-rate", type=float, help="say how many servers this many requests a second need")
    parser.add_argument("--out", type=Path, default=Path("artifacts/loadtest"), help="folder of the report")
    flags = parser.parse_args()
    if not flags.url:
        flags.servers = 1
    if flags.wanted_rate and not flags.servers:
        parser.error("say how many servers stand behind the address (--servers, SERVERS=): its knee is theirs together")
    return flags


def _thresholds(flags: argparse.Namespace) -> dict[str, Any]:
    """Those of the file, and up to which rate they are judged.

    Raises:
        LoadError: they are none, or no step is as low as that; who wants a number of servers asks for no verdict.
    """
    found = read_thresholds(flags.thresholds)
    own = found["rate"] if flags.shape == "steps" else flags.rate
    found["rate"] = flags.judged or own
    lowest = min(step.rate for step in steps_of(flags.shape, flags.rate, flags.seconds))
    if lowest > found["rate"] and not flags.wanted_rate:
        raise LoadError(
            f"the lowest step has {lowest:g} requests/s, and only up to {found['rate']:g} is judged: "
            "raise --judged (JUDGED=), or lower --rate (RATE=)"
        )
    return found


@contextlib.contextmanager
def _server(flags: argparse.Namespace) -> Iterator[Plan]:
    """Serves what is to be loaded, unless an address says where it is."""
    with contextlib.ExitStack() as stack:
        url = flags.url
        if not url:
            server = stack.enter_context(served(flags.model))
            url, flags.metrics_url = server.grpc, server.metrics
        yield Plan(url, flags.model, flags.shape, flags.rate, flags.seconds, flags.workers, flags.timeout)


def _make_load(plan: Plan, out: Path) -> float:
    """The monotonic time at which the load began, once every answer is in its worker's file.

    Raises:
        LoadError: there was none, or not all of it is known.
    """
    plan.write(out)
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(HERE / "locustfile.py")]
    command += [f"--html={out / 'locust.html'}", "--stop-timeout=0", "--loglevel=WARNING", "--exit-code-on-error=0"]
    if plan.workers > 1:
        command.append(f"--processes={plan.workers}")
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    settings = {"LOADTEST_OUT": str(out.absolute()), "PYTHONPATH": path}
    longest = plan.longest_seconds(sum(case.expected == OK for case in default_mix()))
    with _group(command, os.environ | settings) as process:
        try:
            code = process.wait(longest)
        except subprocess.TimeoutExpired:
            raise LoadError(f"no load could be made against {plan.url}: Locust hung for {longest:g} s") from None
        if (reason := next(out.glob("failed-*"), None)) is not None:
            raise LoadError(f"no load could be made against {plan.url}: {reason.read_text()}")
        if code or not (out / "start.json").exists():
            raise LoadError(f"no load could be made against {plan.url}: Locust ended with {code}; its words are above")
        _await_workers(plan, out)
    return json.loads((out / "start.json").read_text())["start"]


@contextlib.contextmanager
def _group(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """Locust, its workers and their senders, of which none outlives the context: the master does not wait for them."""
    process = subprocess.Popen(tied(command), env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_workers(plan: Plan, out: Path) -> None:
    """Waits until each has written its last result; Locust's master has ended before them."""
    end = time.monotonic() + plan.drain_seconds + 10
    while (missing := plan.workers - len(list(out.glob("done-*")))) > 0:
        if time.monotonic() > end:
            raise LoadError(f"{missing} of {plan.workers} processes did not write their results: nothing can be judged")
        time.sleep(0.1)


def _report(flags: argparse.Namespace, plan: Plan, thresholds: Mapping[str, Any], summaries: list[Summary]) -> int:
    found = failures(thresholds, summaries)
    most_lag = thresholds.get("generator_lag_p99_seconds", {}).get("max", float("inf"))
    limit = knee(summaries, most_lag)
    text = conclusion(summaries, limit, most_lag, flags.servers, flags.wanted_rate)
    shape = f"{plan.shape}, {plan.rate:g} requests/s, {plan.seconds:g} s"
    if not any(summary.asked <= thresholds["rate"] for summary in summaries):
        text += f" Nothing was judged: only up to {thresholds['rate']:g} requests/s is."
    findings = Findings(plan.url, shape, summaries, judge(thresholds, summaries), found, limit, text)
    write_report(flags.out / "report.html", findings)
    for summary in summaries:
        logger.info(
            "%6.2f requests/s: %6.2f sent/s, %6.2f answered/s, p50 %.3f s, p99 %.3f s, %s, wrong %.2f %%",
            summary.asked,
            summary.rate,
            summary.answered_per_second,
            summary.p50_seconds,
            summary.p99_seconds,
            "batches not measured"
            if summary.captions_a_step is None
            else f"{summary.captions_a_step:.2f} captions a step",
            summary.wrong_share * 100,
        )
    logger.info("%s", text)
    for line in found:
        logger.error("failed: %s", line)
    logger.info("%s: %s", findings.verdict, flags.out / "report.html")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
