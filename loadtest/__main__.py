"""``python -m loadtest``: one load test, from its first request to its verdict; the exit code is 1 if it failed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from loadtest.report import Findings, write_report
from loadtest.scraping import Scraper
from loadtest.servers import ServerError, served
from loadtest.shapes import steps_of
from loadtest.summary import Summary, failures, judge, knee, read_results, replicas, summarise

HERE = Path(__file__).parent
MARGIN_SECONDS = 120

logger = logging.getLogger("loadtest")


def main() -> int:
    """Runs Locust without its page, then judges and reports.

    Returns:
        0 if the thresholds hold, 1 if not, 2 if the load could not be made.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags = _flags()
    flags.out.mkdir(parents=True, exist_ok=True)
    for pattern in ("results-*.jsonl", "ready-*", "start.json"):
        for old in flags.out.glob(pattern):
            old.unlink()
    try:
        with _server(flags), Scraper(flags.metrics_url) as scraper:
            made = _run_locust(flags)
    except ServerError as error:
        logger.error("%s", error)
        return 2
    if not made:
        logger.error("no load could be made against %s; its log is above", flags.url)
        return 2
    begin = json.loads((flags.out / "start.json").read_text())["start"]
    results = read_results(flags.out)
    summaries = [
        summarise(step, begin, results, scraper.growth(begin + step.start, begin + step.end))
        for step in steps_of(flags.shape, flags.rate, flags.seconds)
    ]
    return _report(flags, summaries)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest", description=__doc__.partition(";")[0])
    parser.add_argument("--url", help="grpc://host:port or http://host:port; without it --model is served meanwhile")
    parser.add_argument("--metrics-url", default="http://127.0.0.1:8002/metrics")
    parser.add_argument("--model", default="ofa_caption")
    parser.add_argument("--shape", choices=("constant", "steps", "spike", "soak"), default="steps")
    parser.add_argument("--rate", type=float, default=2, help="requests a second; see loadtest/shapes.py")
    parser.add_argument("--seconds", type=float, default=20, help="how long, of steps each one")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the load")
    parser.add_argument("--thresholds", type=Path, default=HERE / "thresholds.yaml")
    parser.add_argument("--wanted-rate", type=float, help="say how many servers this many requests a second need")
    parser.add_argument("--out", type=Path, default=Path("artifacts/loadtest"), help="folder of the report")
    return parser.parse_args()


@contextlib.contextmanager
def _server(flags: argparse.Namespace) -> Iterator[None]:
    """Serves what is to be loaded, unless an address says where it is."""
    if flags.url:
        yield
        return
    with served(flags.model) as server:
        flags.url, flags.metrics_url = server.grpc, server.metrics
        yield


def _run_locust(flags: argparse.Namespace) -> bool:
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(HERE / "locustfile.py")]
    command += [
        f"--html={flags.out / 'locust.html'}",
        "--stop-timeout=0",
        "--loglevel=WARNING",
        "--exit-code-on-error=0",
    ]
    if flags.workers > 1:
        command.append(f"--processes={flags.workers}")
    settings = {
        "LOADTEST_WORKERS": str(flags.workers),
        "LOADTEST_URL": flags.url,
        "LOADTEST_MODEL": flags.model,
        "LOADTEST_SHAPE": flags.shape,
        "LOADTEST_RATE": str(flags.rate),
        "LOADTEST_SECONDS": str(flags.seconds),
        "LOADTEST_OUT": str(flags.out.absolute()),
        "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    longest = sum(step.seconds for step in steps_of(flags.shape, flags.rate, flags.seconds)) + MARGIN_SECONDS
    try:
        subprocess.run(command, env=os.environ | settings, check=True, timeout=longest)
    except subprocess.SubprocessError:
        return False
    return (flags.out / "start.json").exists()


def _report(flags: argparse.Namespace, summaries: list[Summary]) -> int:
    thresholds = yaml.safe_load(flags.thresholds.read_text())
    found = failures(thresholds, summaries)
    limit = knee(summaries)
    text = f"The server keeps up with {limit:.1f} requests/s." if limit else "The server does not keep up at all."
    if limit and limit == summaries[-1].answered_per_second and len(summaries) > 1:
        text += " That was the last step: with a higher rate its knee would show."
    if flags.wanted_rate and limit:
        count = replicas(flags.wanted_rate, limit)
        text += f" {flags.wanted_rate:g} requests/s need {count} servers: each at 65 % of that, and one more."
    shape = f"{flags.shape}, {flags.rate:g} requests/s, {flags.seconds:g} s"
    judgements = judge(thresholds, summaries)
    findings = Findings(flags.url, shape, summaries, judgements, found, limit, text)
    write_report(flags.out / "report.html", findings)
    for summary in summaries:
        logger.info(
            "%6.2f requests/s: %6.2f answered/s, p50 %.3f s, p99 %.3f s, %.1f rows a step, wrong %.2f %%",
            summary.rate,
            summary.answered_per_second,
            summary.p50_seconds,
            summary.p99_seconds,
            summary.rows_a_step,
            summary.wrong_share * 100,
        )
    logger.info("%s", text)
    for line in found:
        logger.error("failed: %s", line)
    logger.info("%s: %s", "failed" if found else "passed", flags.out / "report.html")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
