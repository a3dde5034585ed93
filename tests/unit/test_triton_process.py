"""A server's log: relayed and remembered, whatever becomes of the launcher's own output."""

import ctypes
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ofa_serving.launcher import triton
from ofa_serving.launcher.triton import TritonProcess
from ofa_serving.telemetry.logs import LogFormat
from serving_process import wait_until

LINES = 5000
TALK = f"for number in range({LINES}): print(number, 'x' * 60)"  # several times what a pipe holds


class Recovering(io.RawIOBase):
    """A stream that is full at first."""

    def __init__(self):
        self.refusals, self.taken = 3, b""

    def writable(self):
        return True

    def write(self, data):
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        self.taken += bytes(data)
        return len(data)


def ended(monkeypatch, stderr, talk=TALK, log_format=LogFormat.TEXT):
    """The last line that is remembered of a process that talked much and ended."""
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(triton, "_ENDING_SECONDS", 60)  # for a machine on which the last lines take their time
    process = TritonProcess([sys.executable, "-c", talk], dict(os.environ), log_format)
    try:
        assert process.wait(60) == 0
        return process.last_lines()[-1]
    finally:
        process.kill()


def test_a_full_disk_under_the_log_does_not_stop_the_server(monkeypatch):
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert ended(monkeypatch, SimpleNamespace(buffer=full)).startswith(f"{LINES - 1} ")


def test_a_closed_standard_error_does_not_stop_the_server(monkeypatch):
    stream = io.BytesIO()
    stream.close()
    assert ended(monkeypatch, SimpleNamespace(buffer=stream)).startswith(f"{LINES - 1} ")


def test_no_standard_error_at_all_does_not_stop_the_server(monkeypatch):
    assert ended(monkeypatch, None).startswith(f"{LINES - 1} ")


def test_a_log_that_is_taken_again_goes_on(monkeypatch):
    stream = Recovering()
    ended(monkeypatch, SimpleNamespace(buffer=stream))
    assert stream.taken.splitlines()[0].startswith(b"3 ")
    assert stream.taken.splitlines()[-1].startswith(b"%d " % (LINES - 1))


@pytest.mark.parametrize("odd", [r'"\ud800"', "[" * 100_000], ids=["half a letter", "deeply nested"])
def test_an_odd_line_does_not_stop_the_server_that_logs_as_json(monkeypatch, odd):
    line = f"2026-11-22T10:59:40Z E 1 model.cc:1] {odd}"
    stream = io.BytesIO()
    last = ended(monkeypatch, SimpleNamespace(buffer=stream), f"print({line!r})\n{TALK}", LogFormat.JSON)
    assert last.startswith(f"{LINES - 1} ")
    assert json.loads(stream.getvalue().splitlines()[0])["level"] == "ERROR"


PR_SET_CHILD_SUBREAPER = 36
PARENT = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('begun', flush=True); time.sleep(600)"


@pytest.fixture
def adopting():
    """This process gets the children of its children that end, as the first process of a container does."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_what_a_killed_server_leaves_to_the_first_process_of_a_container_is_gone(adopting, monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(buffer=io.BytesIO()))
    before = set(psutil.Process().children())
    process = TritonProcess([sys.executable, "-c", PARENT], dict(os.environ), LogFormat.TEXT)
    wait_until(lambda: process.last_lines() == ["begun"])
    process.kill()
    assert set(psutil.Process().children()) == before
