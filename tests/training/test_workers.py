"""Whatever fails, in a worker or beside them, a run ends within seconds, and says why in a line."""

import os
import signal
import subprocess
import sys

import pytest
from small_checkpoints import golden_checkpoint

BATCHES = """
import os, signal, sys, time
from pathlib import Path
from ofa_build.checkpoint import load_checkpoint
from ofa_build.cli import main
from ofa_build.commands import finetune
from ofa_build.data import BadRecords, DataError, Record
from ofa_build.data.batches import Batches, Encoding, Share
from ofa_build.data.sources import CaptionData, CaptionStream

encoding = Encoding(load_checkpoint(sys.argv[1]).tokenizer, image_size=32, max_words=20, max_tokens=64)

def updates(data):
    return Batches(data, encoding, Share(batch_size=1), workers=2).updates(0, 9)

class Unpicklable(Exception):
    def __init__(self, one, other):
        super().__init__(lambda: one)

    def __str__(self):
        return "not to be sent"

def fail():
    raise DataError("t.csv has no column caption")
    yield

def fail_oddly():
    raise Unpicklable(1, 2)
    yield

def stick():
    print("stuck", file=sys.stderr, flush=True)
    time.sleep(600)

kept = []

def run(_flags):
"""
"""Run as the command does: its signals, its line, its end."""

END = """
finetune.run = run  # the parser takes it from there
sys.exit(main(["finetune", "none", "--train", "none"]))
"""

ENDINGS = {
    "bad data in a worker": (
        "list(updates(CaptionStream(fail, BadRecords())))",
        "ofa-build: t.csv has no column caption",
    ),
    "what cannot be sent from a worker": (
        "list(updates(CaptionStream(fail_oddly, BadRecords())))",
        "ofa-build: RuntimeError: a worker failed with Unpicklable: not to be sent (OFA_DEBUG=1 shows where)",
    ),
    "an error while workers are kept and stuck": (
        "kept.append(updates(CaptionData([Record('a', bytes, ('a',)), Record('b', stick, ('b',))], BadRecords())))\n"
        "    next(kept[0])\n"
        "    raise ValueError('fallen')",
        "ofa-build: ValueError: fallen (OFA_DEBUG=1 shows where)",
    ),
}


def start(action, **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", f"{BATCHES}    {action}\n{END}", str(golden_checkpoint())],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process):
    """Give what it said; a process that does not end is ended, and its workers."""
    try:
        return process.communicate(timeout=120)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the process does not end")


def test_a_run_that_was_stopped_and_saved_ends_as_other_commands_do_by_a_signal():
    process = start("from ofa_build.training.loop import Interrupted; raise Interrupted('saved', signal.SIGHUP)")
    assert end(process) == "ofa-build: saved\n"
    assert process.returncode == 128 + signal.SIGHUP


@pytest.mark.parametrize(("action", "line"), ENDINGS.values(), ids=ENDINGS)
def test_a_failure_ends_the_command_with_its_line(action, line):
    process = start(action)
    assert end(process).splitlines()[-1] == line
    assert process.returncode == 1


def test_the_trace_of_a_worker_is_shown_when_it_is_asked_for():
    said = end(start(ENDINGS["bad data in a worker"][0], OFA_DEBUG="1"))
    assert said.startswith("ofa-build: t.csv has no column caption\n")
    assert "in fail\n" in said


def test_a_signal_ends_a_command_whose_workers_are_stuck():
    process = start("list(updates(CaptionData([Record(name, stick, ('a',)) for name in 'abcd'], BadRecords())))")
    assert process.stderr.readline() == "stuck\n"
    process.terminate()
    assert end(process).splitlines()[-1] == "ofa-build: stopped by SIGTERM"
    assert process.returncode == 128 + signal.SIGTERM
