"""What ``docs/training.md`` shows runs as it stands, from the ten example images to a served and a distilled model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fenced import blocks
from serving_process import ServerProcess

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/training.md").read_text(encoding="utf-8")
SHELL = [text for text in blocks(PAGE) if text[0] != "{"]
(PROGRAM,) = blocks(PAGE, "python")
SERVED = "grpc://127.0.0.1:8001"


def block(words):
    """The page's one block of commands with these words."""
    (found,) = [commands for commands in SHELL if words in commands]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader stands: the project's environment, its checkpoint and its examples."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in ("checkpoints", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def run(folder, *command):
    ended = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


def shell(folder, commands):
    return run(folder, "bash", "-euo", "pipefail", "-c", commands)


@pytest.fixture(scope="module")
def data(folder):
    shell(folder, block("mkdir -p my-data"))
    return folder / "my-data"


@pytest.fixture(scope="module")
def tuned(folder, data):
    shell(folder, block("--work work/tuned"))
    return folder / "work/tuned"


@pytest.fixture(scope="module")
def scores(folder, tuned):
    """What the evaluation with torch leaves."""
    shell(folder, block("--out work/scores"))
    return folder / "work/scores"


def test_fine_tuning_leaves_what_the_page_lists(tuned):
    for name in ("best/pytorch_model.bin", "last/pytorch_model.bin", "evaluations.csv", "state.pt", "recipe.json"):
        assert (tuned / name).is_file()
    assert any((tuned / "tensorboard").iterdir())
    with (tuned / "log.csv").open(newline="") as table:
        assert len(list(csv.DictReader(table))) > 1


def test_the_self_critical_stage(folder, tuned):
    shell(folder, block("--stage self-critical"))
    assert (folder / "work/rewarded/last/pytorch_model.bin").is_file()


def test_several_processes(folder, data):
    shell(folder, block("torchrun"))
    assert (folder / "work/two/last/pytorch_model.bin").is_file()


def test_the_call_from_python(folder, data):
    *intervals, result = run(folder, sys.executable, "-c", PROGRAM).splitlines()
    assert len(intervals) == 4
    assert "CIDEr" in result


def test_evaluating(scores):
    found = json.loads((scores / "scores.json").read_text())
    assert found["scores"].keys() >= {"BLEU-4", "METEOR", "ROUGE-L", "CIDEr"}
    for name in ("scores.md", "report.html"):
        assert (scores / name).stat().st_size > 0


def test_evaluating_as_served(folder, scores):
    build, serve, evaluate = block("ofa-serve").splitlines()
    shell(folder, build)
    assert serve.split("#")[0].split() == [".venv/bin/ofa-serve", "tuned"]
    with ServerProcess(folder / "artifacts", ["tuned"], folder) as server:
        assert SERVED in evaluate
        shell(folder, evaluate.replace(SERVED, f"grpc://{server.grpc_url}"))
    torch, served = (json.loads((each / "scores.json").read_text()) for each in (scores, folder / "work/served"))
    assert served["scores"]["CIDEr"] == pytest.approx(torch["scores"]["CIDEr"])


def test_distilling(folder, tuned):
    shell(folder, block("ofa-build distill"))
    assert (folder / "work/distilled/best/pytorch_model.bin").is_file()
    assert any((folder / "work/teacher-says").iterdir())


def test_every_block_is_run_here():
    """But for the trial of the bundled checkpoint's recipe, which takes minutes."""
    words = [
        "mkdir",
        "work/tuned ",
        "self-critical",
        "torchrun",
        "--out work/scores",
        "ofa-serve",
        "distill",
        "SCENES=",
    ]
    assert [block(each) for each in words] == SHELL
