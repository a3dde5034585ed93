"""The loops that load a server, against one that answers at once."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ofa_client import AsyncCaptioner, OverloadedError

from loadtest import loops
from loadtest.loops import closed_loop, open_loop
from loadtest.null_server import CAPTION

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def urls():
    """Of the null server: gRPC's, HTTP's."""
    command = [sys.executable, "-m", "loadtest.null_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()
        process.stdin.close()


def run(url, use):
    async def within():
        async with AsyncCaptioner(url, retry=None) as captioner:
            return await use(captioner)

    return asyncio.run(within())


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_null_server_answers_as_the_contract_says(urls, protocol):
    caption = run(urls[protocol], lambda captioner: captioner.caption(b"anything"))
    assert (caption.text, caption.score) == (CAPTION.decode(), -1)


def test_a_closed_loop_counts_every_caption_over_the_whole_time(urls):
    outcome = run(urls[0], lambda captioner: closed_loop(captioner, [b"a", b"b"], in_flight=4, seconds=0.5))
    assert outcome.per_second == len(outcome.latencies) / outcome.seconds
    assert len(outcome.latencies) >= 4
    assert not outcome.refusals


def test_an_open_loop_sends_at_the_moments_that_its_seed_sets(urls):
    first, again, other = (
        run(urls[0], lambda captioner, seed=seed: open_loop(captioner, [b"a"], 40, 0.5, seed=seed))
        for seed in (1, 1, 2)
    )
    assert len(first.lags) == len(first.latencies) == len(again.latencies)
    assert min(first.lags) >= 0
    assert len(other.latencies) > 0


def test_refusals_are_counted_by_their_codes():
    outcome = run("grpc://127.0.0.1:1", lambda captioner: closed_loop(captioner, [b"a"], in_flight=1, seconds=0.2))
    assert outcome.latencies == []
    assert outcome.latency(50) is None
    assert set(outcome.refusals) == {"UNAVAILABLE"}


@pytest.mark.parametrize(("message", "asked"), [("try again in 0.4 s", 3), ("full", 10)])
def test_a_closed_loop_leaves_a_server_that_refuses_alone_for_a_while(message, asked, monkeypatch):
    now = [0]  # in tenths of a second, which add up exactly

    async def sleep(seconds):
        now[0] += round(10 * seconds)

    class Refusing:
        async def caption(self, _image):
            raise OverloadedError(message)

    monkeypatch.setattr(loops, "time", SimpleNamespace(monotonic=lambda: now[0] / 10))
    monkeypatch.setattr(loops, "asyncio", SimpleNamespace(sleep=sleep, gather=asyncio.gather))
    outcome = asyncio.run(closed_loop(Refusing(), [b"a"], in_flight=1, seconds=1))
    assert outcome.refusals["OVERLOADED"] == asked
