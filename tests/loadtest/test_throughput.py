"""The comparison of set-ups, without real servers."""

import asyncio
from argparse import Namespace

from loadtest import throughput
from loadtest.loops import Outcome
from loadtest.throughput import SetUp

NOBODY = "grpc://127.0.0.1:1"
FLAGS = Namespace(name="m", rounds=3, seconds=0.2)


def test_what_answers_nothing_is_in_the_table_like_the_others():
    set_ups, nothing = [SetUp("gone", [NOBODY])], [SetUp("alone", [NOBODY])]
    asyncio.run(throughput._measure(FLAGS, [*set_ups, *nothing], 1))
    table = throughput._table(FLAGS, set_ups, nothing)
    assert "| gone | 0.0 | 0.0-0.0 | - | - | - |" in table
    assert "alone: 0 answers/s; at the open loop's rate sent at most 0 ms late" in table


def test_an_open_loop_so_slow_that_nothing_was_due_has_no_lag():
    assert SetUp("slow", [NOBODY], open=[Outcome(seconds=1), Outcome(seconds=1)]).lag() == 0
    assert SetUp("slow", [NOBODY], open=[Outcome(seconds=1), Outcome(seconds=1, lags=[0.5])]).lag() == 0.5


def test_another_set_up_begins_in_every_round(monkeypatch):
    order = []

    async def loop(captioner, *_, **__):
        order.append(captioner)
        return Outcome(seconds=1, latencies=[0.1], lags=[0.0])

    monkeypatch.setattr(throughput, "closed_loop", loop)
    monkeypatch.setattr(throughput, "open_loop", loop)
    asyncio.run(throughput._measure(FLAGS, [SetUp(name, [NOBODY]) for name in "abc"], 3))
    a, b, c = order[:3]
    assert order == [a, b, c] * 2 + [b, c, a] * 2 + [c, a, b] * 2
