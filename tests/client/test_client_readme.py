"""What the client's README shows runs as it stands, and its tables are complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ofa_client
import pytest
from fenced import blocks
from ofa_client import contract

README = (Path(__file__).parents[2] / "client/README.md").read_text(encoding="utf-8")
PROGRAMS = blocks(README, "python")
COMMANDS = re.findall(r"^\$ ofa-caption (.*)$", README, re.MULTILINE)


@pytest.fixture
def run_here(scripted, tmp_path, script):
    """Run Python in a folder with the README's images, against the test's server."""
    (tmp_path / "photo.jpg").write_bytes(script(captions=["a photo", "a picture", "an image"]))
    (tmp_path / "other.jpg").write_bytes(script(captions=["another"]))

    def run(arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("OFA_")},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=True,
        ).stdout

    return run


def here(text, scripted):
    return text.replace("grpc://127.0.0.1:8001", scripted.grpc).replace("http://127.0.0.1:8000", scripted.http)


def test_the_first_lines_of_python(run_here, scripted):
    assert run_here(["-c", here(PROGRAMS[0], scripted)]) == "a photo\n"


def test_the_n_best_captions(run_here, scripted):
    assert run_here(["-c", here(PROGRAMS[1], scripted)]) == "-0.250 a photo\n-0.500 a picture\n-0.750 an image\n"


def test_the_asynchronous_program(run_here, scripted):
    assert run_here(["-c", here(PROGRAMS[2], scripted)]) == "['a photo', 'another']\n"


def test_the_plain_command(run_here, scripted):
    lines = run_here(["-m", "ofa_client", *here(COMMANDS[0], scripted).split()]).splitlines()
    assert lines == ["photo.jpg: a photo", "photo.jpg: a picture", "photo.jpg: an image", "other.jpg: another"]


def test_the_json_command(run_here, scripted):
    record = json.loads(run_here(["-m", "ofa_client", "--url", scripted.grpc, *COMMANDS[1].split()]))
    texts = ["a photo", "a picture", "an image"]
    captions = [{"text": text, "score": score} for text, score in zip(texts, [-0.25, -0.5, -0.75])]
    assert record == {"image": "photo.jpg", "captions": captions}


def test_nothing_else_is_shown_that_could_go_stale():
    assert (len(PROGRAMS), len(COMMANDS)) == (3, 2)


def test_the_tables_name_every_option_and_error():
    for name in contract.PARAMETERS:
        assert f"| `{name}` |" in README
    for name in ofa_client.__all__:
        if name.endswith("Error") and name != "CaptionServiceError":
            assert f"| `{name}` | `{getattr(ofa_client, name).code}` |" in README
