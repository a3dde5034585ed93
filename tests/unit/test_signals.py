"""Which signals end a command."""

import signal

import pytest
from ofa_serving.signals import ending, leaving


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


def test_a_signal_while_a_command_begins_ends_it_as_an_exception_does():
    before = [signal.getsignal(number) for number in ending()]
    with pytest.raises(SystemExit) as ended, leaving():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert [signal.getsignal(number) for number in ending()] == before


def test_a_handler_that_was_set_meanwhile_stays():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with leaving():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
