"""Which processes run a server's models: the test is the server, and a copy of ``sleep`` a model's process."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ofa_serving.launcher.model_processes import ModelProcesses


@pytest.fixture
def start(tmp_path):
    stub = shutil.copy(shutil.which("sleep"), tmp_path / "triton_python_backend_stub")
    running = []

    def start():
        running.append(subprocess.Popen([stub, "30"]))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def found():
    processes = ModelProcesses()
    yield processes
    processes.close()


def end(process):
    """It stays a zombie, as one that its server does not miss."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_one_that_ends_is_missed(start, found):
    process = start()
    found.find(os.getpid())
    assert found.failure is None
    end(process)
    assert found.failure.endswith(" has ended")


def test_so_is_one_that_had_ended_before_they_were_found(start, found):
    end(start())
    found.find(os.getpid())
    assert found.failure == "the process of a model has ended"


def test_a_name_that_the_kernel_cuts_within_a_letter_is_no_obstacle(tmp_path, start, found):
    start()
    foreign = shutil.copy(shutil.which("sleep"), tmp_path / "a模型训练脚本")
    with subprocess.Popen([foreign, "30"]) as other:
        try:
            while b"/a\xe6" not in Path(f"/proc/{other.pid}/cmdline").read_bytes():  # it is not started yet
                assert other.poll() is None
            found.find(os.getpid())
        finally:
            other.kill()
    assert found.failure is None


def test_another_child_that_has_ended_is_not(found):
    other = subprocess.Popen(["sleep", "30"])
    end(other)
    found.find(os.getpid())
    assert found.failure is None
    other.wait()
