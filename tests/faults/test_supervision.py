"""A server whose models die or hang comes back by itself, soon, with nothing left behind; a crash loop ends clearly."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import is_running, model_processes
from serving_process import ServerProcess, wait_until
from small_repository import IMAGE, NAME, build_small_artifact, caption_of, replace_ensemble
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

MODELS = ("tiny_caption", "tiny_preprocess", "tiny_encoder", "tiny_search")
HANG = """
from pathlib import Path
original = TritonPythonModel.execute
def execute(self, requests):
    while Path("{flag}").exists():
        __import__("time").sleep(0.1)
    return original(self, requests)
TritonPythonModel.execute = execute
"""

CRASH = """
import os
import time
from pathlib import Path
def die():
    while not Path("{flag}").exists():
        time.sleep(0.02)
    Path("{flag}").unlink()
    os._exit(1)
threading.Thread(target=die, daemon=True).start()
"""


@pytest.fixture
def artifacts(tmp_path):
    build_small_artifact(tmp_path / "artifacts")
    replace_ensemble(tmp_path / "artifacts" / NAME)
    return tmp_path / "artifacts"


@pytest.fixture
def launch(artifacts, tmp_path):
    """A function that starts a launcher with these flags."""
    started = []

    def start(*flags):
        started.append(ServerProcess(artifacts, [NAME], tmp_path, flags))
        return started[-1].__enter__()

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def crash(artifacts, tmp_path):
    """A function that ends a model's process once the server is up for so many times."""
    flag, model = tmp_path / "crash", artifacts / NAME / "model_repository/tiny_search/1/model.py"
    model.write_text(model.read_text() + CRASH.format(flag=flag))

    def crash(server, number):
        wait_until(lambda: server.log().count("ready: every known image has its caption") == number)
        flag.touch()

    return crash


def caption(server, timeout=30, **parameters):
    tensor = grpc.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[IMAGE]], dtype=np.object_))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(NAME, [tensor], parameters=parameters, client_timeout=timeout)
        return answer.as_numpy("caption")[0, 0].decode()


def wait_until_it_captions(server):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            assert caption(server) == caption_of(IMAGE)
            return
        except InferenceServerException:
            time.sleep(0.05)
    raise AssertionError(f"it did not come back:\n{server.log()[-4000:]}")


def restarted(server, old_pid):
    """Waits until another server process captions; how soon that is, the soak measures."""
    assert server.wait_until_ready()
    wait_until_it_captions(server)
    assert server.server_pid != old_pid
    assert not is_running(old_pid)


def regions(server):
    return {path.name.split("-")[3] for path in Path("/dev/shm").glob(f"ofa-serve-{server.pid}-*")}


@pytest.mark.parametrize("model", MODELS)
def test_the_server_comes_back_from_a_killed_model(launch, model):
    server = launch()
    old = server.server_pid
    old_regions = regions(server)
    os.kill(model_processes(server)[model], signal.SIGKILL)
    restarted(server, old)
    assert f"the process of model {model} has ended; starting it again in 0 s (restart 1)" in server.log()
    assert len(regions(server)) == 1
    assert regions(server).isdisjoint(old_regions)


@pytest.mark.parametrize("model", ["tiny_search", "tiny_caption"])
def test_requests_in_work_are_answered_when_their_model_is_killed(launch, model):
    """Not in Triton's own words, which it has for those that are with the public model's own process."""
    server = launch()
    old = server.server_pid
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(caption, server, wait="200", timeout=300) for _ in range(2)]
        wait_until(lambda: server.metric("ofa_requests_in_flight") == 2)
        os.kill(model_processes(server)[model], signal.SIGKILL)
        for answer in waiting:
            with pytest.raises(InferenceServerException) as failure:
                answer.result()
            assert "Stub process" not in str(failure.value)
    restarted(server, old)


def test_the_server_comes_back_from_a_stopped_model(launch):
    server = launch()
    old = server.server_pid
    os.kill(model_processes(server)["tiny_search"], signal.SIGSTOP)
    restarted(server, old)
    assert "the process of model tiny_search is stopped" in server.log()


def test_the_server_comes_back_when_it_is_killed_itself(launch):
    server = launch()
    old = server.server_pid
    os.kill(old, signal.SIGKILL)
    restarted(server, old)
    assert "the server was killed" in server.log()


def test_the_server_comes_back_from_a_model_that_hangs(launch, artifacts, tmp_path):
    flag = tmp_path / "hang"
    model = artifacts / NAME / "model_repository/tiny_search/1/model.py"
    model.write_text(model.read_text() + HANG.format(flag=flag))
    server = launch("--canary-interval=1", "--canary-timeout=1")
    old = server.server_pid
    flag.touch()
    wait_until(lambda: "starting it again" in server.log())
    flag.unlink()
    restarted(server, old)
    assert "tiny_caption could not caption its known image" in server.log()


def test_a_crash_loop_ends_in_one_clear_line(launch, crash):
    server = launch("--max-restarts=2")
    for number in (1, 2, 3):
        crash(server, number)
    assert server.wait() == 1
    assert re.search(
        r"ERROR ofa-serve: the server failed 3 times within 600 s, the last time so: the process of model "
        r"tiny_search has ended$",
        server.last_line(),
    )
    assert server.log().count("starting it again") == 2
    assert regions(server) == set()


def test_a_signal_ends_it_while_it_waits_to_start_again(launch, crash):
    server = launch("--max-restarts=9")
    for number in (1, 2, 3, 4):
        crash(server, number)
    wait_until(lambda: "starting it again in 4 s (restart 4)" in server.log())
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log().count("started tritonserver") == 4


def test_a_busy_server_is_not_taken_for_a_broken_one(launch):
    server = launch("--canary-interval=1", "--canary-timeout=30")  # it is refused at once, as there is no room
    old = server.server_pid
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(caption, server, wait="1.5", timeout=60) for _ in range(2)]
        assert [answer.result() for answer in answers] == [caption_of(IMAGE)] * 2
    assert server.server_pid == old
    assert "starting it again" not in server.log()
