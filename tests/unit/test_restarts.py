"""How soon a failing server is started again, and when no more."""

import time

import pytest
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.restarts import STEADY, WINDOW, Restarts


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_first_restart_is_at_once_and_each_further_one_later(clock):
    restarts = Restarts(8)
    assert [restarts.next("it died") for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.total == 8


def test_one_that_served_for_a_while_is_started_at_once_again(clock):
    restarts = Restarts(9)
    delays = []
    for seconds in (1, 1, STEADY, 1, 1):
        restarts.serving()
        clock[0] += seconds
        delays.append(restarts.next("it died"))
    assert delays == [0, 1, 0, 1, 2]


def test_one_that_does_not_come_up_has_not_served(clock):
    restarts = Restarts(9)
    restarts.serving()
    clock[0] += STEADY
    restarts.next("it died")
    clock[0] += STEADY
    assert restarts.next("it did not start") == 1


def test_too_many_within_the_window_are_a_crash_loop(clock):
    restarts = Restarts(2)
    restarts.next("it died")
    clock[0] += WINDOW - 1
    restarts.next("it died")
    with pytest.raises(LaunchError, match="the server failed 3 times within 600 s, the last time so: it died again"):
        restarts.next("it died again")


def test_a_restart_is_forgotten_after_the_window(clock):
    restarts = Restarts(1)
    for _ in range(5):
        restarts.serving()
        clock[0] += STEADY
        assert restarts.next("it died") == 0
        clock[0] += WINDOW + 1
    assert restarts.total == 5


def test_restarts_can_be_switched_off():
    with pytest.raises(LaunchError, match=r"^it died$"):
        Restarts(0).next("it died")
