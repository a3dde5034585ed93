"""The line in front of the stages."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ofa_serving.waiting import PriorityClass, WaitingLine

INTERACTIVE, BATCH = PriorityClass.INTERACTIVE, PriorityClass.BATCH


@pytest.fixture
def line():
    return WaitingLine()


def test_interactive_requests_go_before_batch_ones_and_each_kind_in_order(line):
    for item, priority in (("b1", BATCH), ("i1", INTERACTIVE), ("b2", BATCH), ("i2", INTERACTIVE)):
        line.put(item, priority)
    assert [line.take() for _ in range(4)] == ["i1", "i2", "b1", "b2"]


def test_one_who_takes_waits_for_what_comes(line):
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(line.take)
        assert not taken.done()
        line.put("late", BATCH)
        assert taken.result(10) == "late"


def test_what_is_withdrawn_is_not_taken(line):
    for item in ("one", "two", "three"):
        line.put(item, INTERACTIVE)
    assert line.withdraw("two")
    assert [line.take(), line.take()] == ["one", "three"]


def test_what_was_taken_can_not_be_withdrawn(line):
    line.put("one", BATCH)
    line.take()
    assert not line.withdraw("one")


def test_closing_gives_out_what_still_waits_and_then_lets_everyone_go(line):
    line.put("last", BATCH)
    line.close()
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(lambda _: str(line.take()), range(3))) == ["None", "None", "last"]
