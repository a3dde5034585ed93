"""The scripts that make environments, as far as they come without an index."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_INDEX = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


def run(*command, **variables):
    """What became of it."""
    environment = os.environ | NO_INDEX | variables
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=False, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        ["scripts/environment", sys.executable, "VENV"],
        ["scripts/lock", sys.executable, "VENV"],
        [sys.executable, "scripts/audit.py", "VENV", sys.executable, "OUT"],
    ],
    ids=lambda command: Path(command[command[0] == sys.executable]).stem,
)
def test_an_environment_that_was_left_without_pip_is_completed(command, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "VENV"], check=True)
    command = [tmp_path / word if word in ("VENV", "OUT") else word for word in command]
    assert run(*command).returncode != 0  # there is no index to install from
    assert run(tmp_path / "VENV/bin/pip", "--version").returncode == 0


def test_modelscopes_environment_is_made_by_the_python_that_was_asked_for(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\nexit 7\n')
    python.chmod(0o755)
    assert run("scripts/modelscope-environment", tmp_path / "peer", PYTHON=str(python)).returncode == 7
    assert (tmp_path / "asked").read_text() == f"-m venv {tmp_path}/peer\n"
