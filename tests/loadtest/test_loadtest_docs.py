"""Every load test that the documentation shows would begin."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="needs the extra 'loadtest'")

from loadtest import __main__ as loadtest

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
COMMAND = r"make (?:loadtest\b|capacity WANTED)"
FOUND = re.findall(rf"^\$ ({COMMAND}[^#\n]*)|`({COMMAND}[^`]*)`", TEXT, re.MULTILINE)
SHOWN = sorted({" ".join((line or inline).split()) for line, inline in FOUND})


@pytest.mark.parametrize("command", SHOWN)
def test_a_shown_load_test_begins(command, monkeypatch):
    there = ["--old-file=.venv/.ready", "--old-file=artifacts/ofa_caption/manifest.json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    lines = subprocess.run(
        [*shlex.split(command), "-n", *there], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout.replace("\\\n", "")
    (words,) = [shlex.split(line) for line in lines.splitlines() if " -m loadtest " in line]
    monkeypatch.setattr(sys, "argv", words[2:])
    assert loadtest._thresholds(loadtest._flags())["rate"] > 0


def test_there_are_some():
    assert len(SHOWN) >= 4
