"""Which signals end a command."""

import signal

import pytest
from ofa_serving.signals import ending


@pytest.fixture
def hangup():
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_a_command(hangup):
    hangup(signal.SIG_DFL)
    assert set(ending()) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def test_but_not_one_that_nohup_started(hangup):
    hangup(signal.SIG_IGN)
    assert set(ending()) == {signal.SIGTERM, signal.SIGINT}
