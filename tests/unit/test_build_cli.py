"""What ``ofa-build build`` refuses, each in one line and before any work, and how it ends when something comes up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cases import CASES
from ofa_build.cli import main
from ofa_build.commands import build
from ofa_build.model import ConfigError
from PIL import Image

ROOT = Path(__file__).parents[2]
CHECKPOINT = str(CASES[0].checkpoint)

REFUSED = {
    "a name with a path": (["--name", "../x"], "is no model name"),
    "a name of a stage": (["--name", "owls_beam_search"], "ends as a stage's name"),
    "TensorRT on a CPU": (["--engine", "tensorrt"], "is for --device gpu"),
    "bf16 in ONNX Runtime": (["--engine", "onnxruntime", "--precision", "bf16"], "is built in fp32, not in bf16"),
    "TensorRT where there is none": (["--engine", "tensorrt", "--device", "gpu"], "TensorRT is not installed"),
    "int8 in ONNX Runtime": (["--engine", "onnxruntime", "--precision", "int8"], "is built in fp32, not in int8"),
    "int8 by no pictures": (["--precision", "int8"], "int8 needs --pictures FOLDER"),
    "int8 by a folder without": (["--precision", "int8", "--pictures", "."], "has no picture that can be read"),
    "pictures for fp32": (["--pictures", "."], "--pictures is for int8, not for fp32"),
    "int8 by no folder": (["--precision", "int8", "--pictures", "nowhere"], "--pictures nowhere is no folder"),
    "fewer than no threads": (["--threads", "-1"], "0 or more"),
    "weights that are others": (["--sha256", "0" * 64], "not to what was asked for"),
    "no such checkpoint": ([], "no-such-folder"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(tmp_path, caplog, flags, words):
    checkpoint = "no-such-folder" if words == "no-such-folder" else CHECKPOINT
    assert main(["build", checkpoint, "--artifacts", str(tmp_path / "artifacts"), *flags]) == 1
    assert words in line_of(caplog)
    assert not list(tmp_path.glob("artifacts/*/manifest.json"))


def line_of(caplog) -> str:
    """The one line that says why."""
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "\n" not in line
    assert caplog.text.count("\n") == len(caplog.records)  # and no trace
    return line


# --- Ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("out of\nmemory"), "ofa-build: RuntimeError: out of memory (OFA_DEBUG=1 shows where)"),
        (MemoryError(), "ofa-build: MemoryError (OFA_DEBUG=1 shows where)"),
        (ConfigError("d_model is odd"), "ofa-build: d_model is odd"),
        (PermissionError(13, "Permission denied", "x"), "ofa-build: [Errno 13] Permission denied: 'x'"),
    ],
    ids=["unforeseen", "without words", "ours", "the system's"],
)
def test_whatever_comes_up_is_told_in_a_line(caplog, monkeypatch, error, line):
    monkeypatch.delenv("OFA_DEBUG", raising=False)
    monkeypatch.setattr(build, "load_checkpoint", lambda *_: fail(error))
    assert main(["build", CHECKPOINT]) == 1
    assert line_of(caplog) == line


def test_where_it_came_up_is_shown_if_asked(caplog, monkeypatch):
    monkeypatch.setenv("OFA_DEBUG", "1")
    monkeypatch.setattr(build, "load_checkpoint", lambda *_: fail(RuntimeError("broken")))
    assert main(["build", CHECKPOINT]) == 1
    assert "Traceback" in caplog.text
    assert "in fail" in caplog.text


def fail(error):
    raise error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_in_a_line_and_removes_what_it_began(tmp_path, number, code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ofa_build.cli", "build", CHECKPOINT, "--artifacts", str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob(".ofa_caption.building-*/model_repository")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, log = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    assert log.splitlines()[-1] == f"ofa-build: stopped by {number.name}"
    assert "Traceback" not in log
    assert not list(tmp_path.iterdir())


def test_signals_are_as_before_when_it_is_done(caplog):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(["build", "no-such-folder"]) == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# --- Pictures ---------------------------------------------------------------------------------------------------------


def save(path) -> None:
    Image.new("RGB", (8, 8), path.name[0].encode()[0]).save(path, "PNG")


def test_pictures_are_found_among_other_files(tmp_path, caplog):
    for number in range(2 * build.PICTURES):
        (tmp_path / f"{number:03d}.json").write_text("{}")
        save(tmp_path / f"{number:03d}.png")
    assert len(build._pictures(tmp_path)) == build.PICTURES
    assert not caplog.records


def test_damaged_pictures_are_made_up_for_by_those_between(tmp_path):
    for number in range(2 * build.PICTURES):
        path = tmp_path / f"{number:03d}"
        if number % 2:
            save(path)
        else:
            path.write_bytes(b"\x89PNG, or so it seems")
    assert len(build._pictures(tmp_path)) == build.PICTURES


def test_a_file_that_may_not_be_read_is_named_and_passed_over(tmp_path, caplog, monkeypatch):
    save(tmp_path / "0.png")
    save(tmp_path / "1.png")

    opened = Path.open

    def guarded(path, *arguments, **options):
        if path.name == "0.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    assert len(build._pictures(tmp_path)) == 1
    assert [record.getMessage() for record in caplog.records] == ["0.png is passed over: Permission denied"]


def test_what_is_too_large_for_a_picture_is_not_read(tmp_path, caplog, monkeypatch):
    save(tmp_path / "small.png")
    with (tmp_path / "large.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(2**30)
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    assert len(build._pictures(tmp_path)) == 1
    assert read == ["small.png"]
    assert "large.bmp is passed over: it has more than" in caplog.text


# --- make plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("damo/ofa", "make build fetches a hub's name"),
        ("file.pt", "a .pt file goes into a folder"),
        ("links", "cp -rL"),
    ],
)
def test_plans_of_what_a_container_cannot_read_are_refused_before_docker(tmp_path, checkpoint, words):
    (tmp_path / "file.pt").write_bytes(b"")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "config.json").symlink_to("../../blobs/1")
    command = ["make", "-f", str(ROOT / "Makefile"), "plans", f"CHECKPOINT={checkpoint}", "BASE_DIGEST=sha256:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stdout
    assert not (tmp_path / "damo").exists()
