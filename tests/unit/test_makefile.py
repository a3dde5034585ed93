"""What the Makefile's commands would run, whatever the path and the environment."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import builds

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
MANIFEST = "artifacts/ofa_caption/manifest.json"
THERE = [f"--old-file={file}" for file in (".venv/.ready", ".venv-page/.ready", MANIFEST)]


def made(folder, *words, **variables):
    """A run of make; the outer make's own variables stay outside."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env=environment | variables, check=True, capture_output=True, text=True)


def make(folder, *words, **variables):
    """What make prints."""
    return made(folder, *words, **variables).stdout


@pytest.mark.parametrize(
    ("command", "script"), [("demo", "demo"), ("test-pythons", "client-pythons"), ("test-page", "with-server")]
)
def test_a_path_may_have_a_space(command, script, tmp_path):
    folder = tmp_path / "a folder"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "scripts" / script).write_text('#!/bin/sh\necho "first on the path: ${PATH%%:*}"\n')
    (folder / "scripts" / script).chmod(0o755)
    assert f"first on the path: {folder}/.venv/bin\n" in make(folder, *THERE, command)


def test_a_variable_counts_on_the_command_line_and_not_in_the_environment():
    names = set(re.findall(r"\b[A-Z_0-9]{4,}\b", MAKEFILE)) - {"PYTHON", "PATH", "SHELL", "CURDIR"}
    assert {"NAME", "HOST", "PEER", "RATE"} <= names
    foreign = {name: "foreign" for name in names if not name.startswith("MAKE")}
    ours = make(ROOT, "-n", *THERE, *COMMANDS)
    assert make(ROOT, "-n", *THERE, *COMMANDS, **foreign) == ours
    assert "--url there" in make(ROOT, "-n", *THERE, "loadtest", "HOST=there")


def test_a_misspelt_variable_is_named():
    for words, named in ((["NMAE=x"], True), (["NAME=x", "HTTP_PORT=9"], False)):
        assert ("NMAE: no variable" in made(ROOT, "-n", *words, "help").stderr) == named


@pytest.fixture
def built(tmp_path):
    """A folder with the sources, in which the bundled checkpoint was built after the last change of any."""
    for source in ("Makefile", "build", "checkpoints", "model_repository", "scripts", "serving"):
        (tmp_path / source).symlink_to(ROOT / source)
    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / MANIFEST).touch()
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        "build/ofa_build/commands/build.py",
        "build/ofa_build/export/decoder.py",
        "checkpoints/emoji/pytorch_model.bin",
        "model_repository/ofa_caption/1/model.py",
        "model_repository/ofa_encoder/config.pbtxt",
        "serving/ofa_serving/engines/onnxruntime.py",
        "serving/ofa_serving/images.py",
    ],
)
def test_an_artifact_is_built_again_when_what_it_is_made_by_has_changed(source, built):
    options = ["-n", "--old-file=.venv/.ready", "demo"]
    assert "ofa-build build" not in make(built, *options)
    assert "ofa-build build checkpoints/emoji" in make(built, f"--what-if={source}", *options)


def test_benchmarks_build_again_when_the_same_files_change(built):
    rules = make(built, "-n", "-p", "--old-file=.venv/.ready", "help")
    needs = re.search(rf"^{MANIFEST}: (.*)$", rules, re.MULTILINE)[1].split()
    sources = {ROOT / need for need in needs if not need.startswith((".venv", "checkpoints"))}
    assert sources == set(builds.SOURCES)
