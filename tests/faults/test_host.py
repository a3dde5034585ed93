"""A machine that gives too little: one clear line and no server, or refusals in words and a server that lives."""

import re
import shutil
import subprocess

import pytest
from cases import CASES
from serving_process import ServerProcess
from small_repository import NAME, build_small_artifact
from tritonclient.utils import InferenceServerException
from wire import over_grpc

MODEL = CASES[0].model_name
IMAGE = CASES[0].images[0]


def mounted(*mounts):
    """A command that runs others where these file systems are mounted, in a namespace of their own."""
    script = " && ".join([*(f"mount {mount}" for mount in mounts), 'exec "$@"'])
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


def possible():
    return subprocess.run([*mounted("-t tmpfs tmpfs /mnt"), "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not possible(), reason="this machine lets nobody mount in a namespace of his own")


def refused_start(server):
    server.start()
    assert not server.wait_until_ready()
    assert server.wait() == 1
    assert "Traceback" not in server.log()
    _, found, reason = server.last_line().partition("ERROR ofa-serve: ")
    assert found
    return reason


@needs_mounts
def test_too_little_shared_memory_is_told_before_the_start(artifacts, tmp_path):
    within = mounted("-t tmpfs -o size=2m tmpfs /dev/shm")
    reason = refused_start(ServerProcess(artifacts(CASES[0]).parent, [MODEL], tmp_path, within=within))
    assert re.match(r"/dev/shm has 2 MiB free and the models need \d+ MiB under full load; give it more", reason)


@needs_mounts
def test_shared_memory_that_is_full_refuses_large_requests_and_serves_small_ones(artifacts, tmp_path):
    within = mounted("-t tmpfs -o size=40m tmpfs /dev/shm")
    padded = IMAGE + bytes(19 * 2**20)  # what stands behind a JPEG does not matter
    with ServerProcess(artifacts(CASES[0]).parent, [MODEL], tmp_path, within=within) as server:
        assert "has 40 MiB free" in server.log()
        for _ in range(3):
            with pytest.raises(InferenceServerException, match="OVERLOADED: the server has too little shared memory"):
                over_grpc(server, MODEL, [padded])
            assert over_grpc(server, MODEL, [IMAGE])["caption"][0, 0].decode() == CASES[0].record["captions"][0][0]


@needs_mounts
@pytest.mark.parametrize("options", ["size=1k", "ro"])
def test_a_full_or_read_only_disk_is_named(tmp_path, options):
    build_small_artifact(tmp_path / "artifacts")
    within = mounted(f"-t tmpfs -o {options} tmpfs /mnt")
    reason = refused_start(ServerProcess(tmp_path / "artifacts", [NAME], tmp_path, ["--run-folder=/mnt/run"], within))
    assert reason.startswith("cannot write /mnt/run (")
    assert reason.endswith("choose another place with --run-folder")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_vocabulary_is_named(artifacts, tmp_path, name):
    shutil.copytree(artifacts(CASES[0]), tmp_path / MODEL)
    (tmp_path / MODEL / f"model_repository/{MODEL}_beam_search/1/{name}").unlink()
    reason = refused_start(ServerProcess(tmp_path, [MODEL], tmp_path))
    assert name in reason


def test_too_little_memory_ends_the_start_in_one_line(artifacts, tmp_path):
    within = ["prlimit", f"--as={700 * 2**20}"]
    reason = refused_start(ServerProcess(artifacts(CASES[0]).parent, [MODEL], tmp_path, within=within))
    # Triton itself may be the first to run short, and crashes then.
    short = "there is too little memory for the models"
    crash = r"the server crashed \(SIG\w+\), perhaps for want of memory"
    assert re.match(f"{short}|{crash}", reason)
