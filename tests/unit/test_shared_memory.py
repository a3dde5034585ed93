"""Shared memory: what is needed is checked first, what is owned goes at the end, what is orphaned is swept."""

import os
import signal
import subprocess
import sys

import pytest
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.shared_memory import ModelMemory, check_room, own_regions, required_bytes, sweep

HOLDER = """
import pathlib, sys, time
from ofa_serving.launcher.shared_memory import own_regions
with own_regions(pathlib.Path(sys.argv[1])) as prefix:
    pathlib.Path(sys.argv[1], prefix + "region").touch()
    print(prefix, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another launcher, whose server has one region in ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    process.prefix = process.stdout.readline().strip()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_server_owns_its_prefix_and_leaves_nothing(tmp_path):
    with own_regions(tmp_path) as prefix:
        assert prefix.startswith(f"ofa-serve-{os.getpid()}-")
        (tmp_path / f"{prefix}region").touch()
    assert names(tmp_path) == []


def test_two_servers_of_one_launcher_have_their_own_prefixes(tmp_path):
    with own_regions(tmp_path) as one, own_regions(tmp_path) as other:
        assert one != other


def test_regions_of_a_killed_launcher_are_swept(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert sweep(tmp_path) == [f"{holder.prefix}region"]
    assert names(tmp_path) == []


def test_regions_of_a_running_launcher_stay(tmp_path, holder):
    assert sweep(tmp_path) == []
    assert names(tmp_path) == [f"{holder.prefix}lock", f"{holder.prefix}region"]


def test_what_is_not_ours_stays(tmp_path):
    theirs = ["ofa-serve-notes", "sem.other", "triton_python_backend_shm_region_1234"]
    for name in theirs:
        (tmp_path / name).touch()
    assert sweep(tmp_path) == []
    assert names(tmp_path) == theirs


def test_regions_of_another_users_launcher_stay(tmp_path, holder, monkeypatch):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep(tmp_path) == []
    assert names(tmp_path) == [f"{holder.prefix}lock", f"{holder.prefix}region"]


def test_processes_in_swept_regions_are_ended(tmp_path, holder):
    stub = tmp_path / "triton_python_backend_stub"
    stub.symlink_to("/bin/sleep")
    orphan = subprocess.Popen([stub, "60", f"{holder.prefix}region"], stderr=subprocess.DEVNULL)
    bystander = subprocess.Popen([stub, "60"])
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    sweep(tmp_path)
    assert bystander.poll() is None
    bystander.kill()
    assert orphan.wait(60) != 0
    bystander.wait(60)


def test_each_instance_needs_its_region_and_half_as_much_again_as_its_tensors():
    mebibyte = 2**20
    assert required_bytes([ModelMemory(instances=2, in_flight=4, bytes_each=mebibyte)]) == 2 * 7 * mebibyte
    assert required_bytes([]) == 0


def test_no_room_for_one_request_is_refused_with_both_figures():
    with pytest.raises(LaunchError, match=r"MiB free and the models need 1572865 MiB .*--shm-size"):
        check_room([ModelMemory(instances=1, in_flight=1, bytes_each=2**40)])


def test_too_little_room_for_full_load_is_warned_of(caplog):
    check_room([ModelMemory(instances=1, in_flight=2**20, bytes_each=2**20)])
    assert "the models need 1572865 MiB under full load" in caplog.text


def test_enough_room_needs_no_words(caplog):
    check_room([ModelMemory(instances=1, in_flight=1, bytes_each=2**10)])
    assert not caplog.records


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LaunchError, match="cannot be used: No such file"):
        check_room([], tmp_path / "none")
    with pytest.raises(LaunchError, match="cannot be used: No such file"), own_regions(tmp_path / "none"):
        pass
