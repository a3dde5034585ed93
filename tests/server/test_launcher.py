"""``ofa-serve`` from its checks to its stop, on a repository of tiny models."""

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving_process import ServerProcess, wait_until
from small_repository import IMAGE, NAME, build_small_artifact, caption_of, replace_ensemble, sign
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.server

BUFFERED = ["env", "--unset=PYTHONUNBUFFERED"]
"""As most run it: what is not written stays in Python's buffer until the end."""

SLOW_START = "import time\ntime.sleep(600)\n"


@pytest.fixture
def artifacts(tmp_path):
    build_small_artifact(tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def launcher(artifacts, tmp_path):
    """A launcher that is not started; whatever the test leaves of it is stopped."""
    process = ServerProcess(artifacts, [NAME], tmp_path)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server of two checkpoints, for the tests that leave it as it is."""
    work = tmp_path_factory.mktemp("launcher")
    for name in (NAME, "mini_caption"):
        build_small_artifact(work / "artifacts", name)
    with ServerProcess(work / "artifacts", [NAME, "mini_caption"], work) as running:
        yield running


def caption(server, image=IMAGE, model=NAME, **parameters):
    tensor = grpc.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        return client.infer(model, [tensor], parameters=parameters).as_numpy("caption")[0, 0].decode()


def regions(launcher):
    return [path.name for path in Path("/dev/shm").glob(f"ofa-serve-{launcher.pid}-*")]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def failure(launcher):
    """Start a launcher that cannot succeed; the one line it ends with."""
    launcher.start()
    assert not launcher.wait_until_ready()
    assert launcher.wait() == 1
    assert "Traceback" not in launcher.log()
    assert regions(launcher) == []
    _, separator, reason = launcher.last_line().partition("ERROR ofa-serve: ")
    assert separator
    return reason


# Serving


@pytest.mark.parametrize("model", [NAME, "mini_caption"])
def test_checkpoints_are_served_side_by_side(server, model):
    assert caption(server, b"another image", model) == caption_of(b"another image")


def test_its_memory_comes_from_few_arenas(server):
    variables = Path(f"/proc/{server.server_pid}/environ").read_bytes().split(b"\0")
    assert b"MALLOC_ARENA_MAX=" + os.environb.get(b"MALLOC_ARENA_MAX", b"2") in variables


def test_it_listens_on_loopback_alone(server):
    for url in (server.http_url, server.grpc_url, server.metrics_url):
        port = int(url.removeprefix("http://").partition("/")[0].rpartition(":")[2])
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
        listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
        addresses = [address for address in listening if address.endswith(f":{port:04X}")]
        assert addresses
        assert all(address.partition(":")[0].endswith("0100007F") for address in addresses)  # IPv6 wraps it


def test_metrics_are_served(server):
    with urllib.request.urlopen(server.metrics_url) as answer:
        assert f'model="{NAME}"' in answer.read().decode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("systemsharedmemory/status", None),
        ("systemsharedmemory/region/x/register", b'{"key": "/x", "offset": 0, "byte_size": 1}'),
        ("cudasharedmemory/status", None),
        ("repository/index", b"{}"),
        ("repository/models/tiny_caption/unload", b"{}"),
        ("trace/setting", None),
        ("logging", None),
    ],
)
def test_what_could_change_the_server_is_refused_over_http(server, path, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.http_url}/v2/{path}", body)
    assert refused.value.code == 403


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("x", "/x", 1),
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model(NAME),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
    ],
)
def test_what_could_change_the_server_is_refused_over_grpc(server, call):
    with grpc.InferenceServerClient(server.grpc_url) as client, pytest.raises(InferenceServerException) as refused:
        call(client)
    assert "restricted" in refused.value.message()


def test_a_refusal_of_a_model_is_the_clients_error(server):
    with pytest.raises(InferenceServerException) as refused:
        caption(server, b"")
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "EMPTY_IMAGE: no bytes" in refused.value.message()


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_request_in_flight_finish(launcher, number, tmp_path):
    with launcher, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(caption, launcher, sleep="2", begun=f"{tmp_path}/begun")
        wait_until((tmp_path / "begun").exists)
        launcher.send_signal(number)
        assert answer.result() == caption_of(IMAGE)
        assert launcher.wait() == 0
    assert regions(launcher) == []


def test_requests_between_stages_finish_and_new_ones_are_refused(launcher, artifacts, tmp_path):
    replace_ensemble(artifacts / NAME)
    refusals = []

    def is_refused_as_it_stops():
        with pytest.raises(InferenceServerException) as refused:  # until it knows, as there is no more room
            caption(launcher)
        refusals.append(refused.value)
        return refused.value.message().startswith("OVERLOADED: the server is stopping")

    with launcher, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(caption, launcher, image, held=f"{tmp_path}/go") for image in (b"one", b"two")]
        wait_until(lambda: launcher.metric("ofa_requests_in_flight") == 2)
        launcher.send_signal(signal.SIGTERM)
        wait_until(is_refused_as_it_stops, 20)  # of the 30 s that requests in flight are given
        assert {refusal.status() for refusal in refusals} == {"StatusCode.UNAVAILABLE"}
        (tmp_path / "go").touch()
        assert [answer.result() for answer in answers] == [caption_of(b"one"), caption_of(b"two")]
        assert launcher.wait() == 0
    assert regions(launcher) == []


def test_requests_past_the_bound_are_refused_until_one_is_answered(launcher, artifacts, tmp_path):
    replace_ensemble(artifacts / NAME)
    with launcher, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(caption, launcher, held=f"{tmp_path}/go") for _ in range(2)]
        wait_until(lambda: launcher.metric("ofa_requests_in_flight") == 2)
        # How soon depends on how long the known image took.
        with pytest.raises(InferenceServerException, match=r"OVERLOADED: too many images are .* try again in \d+ s"):
            caption(launcher)
        (tmp_path / "go").touch()
        assert [answer.result() for answer in answers] == [caption_of(IMAGE)] * 2
        wait_until(lambda: launcher.metric("ofa_requests_in_flight") == 0)
        assert caption(launcher) == caption_of(IMAGE)


def assert_two_signals_end(launcher):
    """At once, whatever is being waited for: the last line would be another if the time had run out."""
    launcher.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in launcher.log())
    time.sleep(1.1)  # within a second they count as one
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait() == 1
    assert "second signal" in launcher.last_line()


def test_a_second_signal_does_not_wait(launcher, tmp_path):
    with launcher, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(caption, launcher, sleep="600", begun=f"{tmp_path}/begun")
        wait_until((tmp_path / "begun").exists)
        assert_two_signals_end(launcher)
        with pytest.raises(InferenceServerException):
            answer.result()
    assert regions(launcher) == []


def test_a_signal_that_comes_twice_at_once_is_one(launcher, tmp_path):
    """As when a whole group gets it, and make, a member, passes on what it got."""
    with launcher, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(caption, launcher, sleep="3", begun=f"{tmp_path}/begun")
        wait_until((tmp_path / "begun").exists)
        launcher.send_signal(signal.SIGSTOP)  # however slow the machine, it finds both at one time
        launcher.send_signal(signal.SIGTERM)
        launcher.send_signal(signal.SIGINT)
        launcher.send_signal(signal.SIGCONT)
        assert launcher.wait() == 0
        assert answer.result() == caption_of(IMAGE)


def test_a_signal_while_models_load_stops_it(launcher, artifacts):
    slow = artifacts / NAME / "model_repository/tiny_search/1/model.py"
    slow.write_text("import time\ntime.sleep(3)\n" + slow.read_text())
    launcher.start()
    wait_until(lambda: "loading: tiny_search" in launcher.log())
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait() == 0
    assert regions(launcher) == []


def test_signals_end_the_wait_for_the_known_image(launcher, artifacts, tmp_path):
    slow = artifacts / NAME / "model_repository/tiny_search/1/model.py"
    told = f"Path({str(tmp_path / 'begun')!r}).touch(); "
    slow.write_text(slow.read_text().replace("time.sleep(", told + "time.sleep(600 + "))
    launcher.start()
    wait_until((tmp_path / "begun").exists)
    assert_two_signals_end(launcher)
    assert regions(launcher) == []


def test_a_server_that_dies_while_stopping_is_not_a_clean_stop(launcher, artifacts, tmp_path):
    replace_ensemble(artifacts / NAME)
    with launcher, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(caption, launcher, held=f"{tmp_path}/go")
        wait_until(lambda: launcher.metric("ofa_requests_in_flight") == 1)
        launcher.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in launcher.log())
        os.kill(launcher.server_pid, signal.SIGKILL)
        assert launcher.wait() == 1
        with pytest.raises(InferenceServerException):
            answer.result()
    assert "while stopping, the server was killed" in launcher.last_line()


def test_a_killed_server_ends_a_launcher_that_may_not_restart_it_in_one_line(artifacts, tmp_path):
    with ServerProcess(artifacts, [NAME], tmp_path, ["--max-restarts=0"]) as launcher:
        os.kill(launcher.server_pid, signal.SIGKILL)
        assert launcher.wait() == 1
    assert launcher.last_line().endswith("ERROR ofa-serve: the server was killed, perhaps for want of memory")
    assert regions(launcher) == []


def test_a_server_is_restarted_though_nobody_reads_what_the_launcher_says(artifacts, tmp_path):
    with ServerProcess(artifacts, [NAME], tmp_path, within=BUFFERED) as launcher:
        launcher.stop_reading()
        os.kill(launcher.server_pid, signal.SIGKILL)
        wait_until(lambda: launcher.log().count("ready: every known image has its caption") == 2)
        assert launcher.stop() == 0
    assert "Traceback" not in launcher.log()


def test_a_server_serves_though_its_log_is_not_taken(artifacts, tmp_path):
    full_disk = [*BUFFERED, "sh", "-c", 'exec "$@" 2>/dev/full', "sh"]
    with ServerProcess(artifacts, [NAME], tmp_path, within=full_disk) as launcher:
        assert caption(launcher) == caption_of(IMAGE)
        assert launcher.stop() == 0


def test_a_killed_launcher_takes_its_server_along(launcher):
    with launcher:
        server_pid = launcher.server_pid
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        wait_until(lambda: not is_running(server_pid))


def test_the_next_start_sweeps_what_killed_processes_left(launcher, artifacts, tmp_path):
    with launcher:
        for pid in (launcher.pid, launcher.server_pid):
            os.kill(pid, signal.SIGKILL)
        launcher.wait()
    assert len(regions(launcher)) > 1
    (tmp_path / "next").mkdir()
    with ServerProcess(artifacts, [NAME], tmp_path / "next") as following:
        assert regions(launcher) == []
        assert caption(following) == caption_of(IMAGE)


# Not starting


def test_a_taken_port_is_named(artifacts, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        reason = failure(ServerProcess(artifacts, [NAME], tmp_path, [f"--grpc-port={port}"]))
    assert reason == f"port {port} for grpc is taken; free it, or choose another with --grpc-port"


def test_a_name_that_was_never_built_is_told_so(artifacts, tmp_path):
    reason = failure(ServerProcess(artifacts, ["other_caption"], tmp_path))
    assert reason.endswith("other_caption: build the checkpoint first")


def test_a_damaged_engine_is_named(launcher, artifacts):
    engine = artifacts / NAME / "model_repository/tiny_encoder/1/model.onnx"
    content = bytearray(engine.read_bytes())
    content[-1] ^= 1
    engine.write_bytes(content)
    assert "tiny_encoder/1/model.onnx of tiny_caption is damaged (its hash differs)" in failure(launcher)


def test_a_missing_engine_is_named(launcher, artifacts):
    (artifacts / NAME / "model_repository/tiny_encoder/1/model.onnx").unlink()
    assert "lacks model_repository/tiny_encoder/1/model.onnx" in failure(launcher)


def test_an_engine_that_was_built_wrong_is_named(launcher, artifacts):
    (artifacts / NAME / "model_repository/tiny_encoder/1/model.onnx").write_bytes(b"not a graph")
    sign(artifacts / NAME)
    assert failure(launcher) == "model 'tiny_encoder' has a damaged engine: build it again"


def test_a_configuration_that_does_not_fit_its_engine_is_named(launcher, artifacts):
    config = artifacts / NAME / "model_repository/tiny_encoder/config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP64"))
    assert "'tiny_encoder' did not load: ValueError: output 'hidden' is TYPE_FP64" in failure(launcher)


def test_a_configuration_that_cannot_be_read_is_named(launcher, artifacts):
    (artifacts / NAME / "model_repository/tiny_search/config.pbtxt").write_text("backend: {")
    assert failure(launcher) == "the configuration of tiny_search cannot be read: build it again"


def test_an_unknown_backend_is_named(launcher, artifacts):
    config = artifacts / NAME / "model_repository/tiny_encoder/config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"dali"'))
    assert failure(launcher) == "model tiny_encoder asks for the backend 'dali', which this server lacks"


def test_a_model_without_its_file_is_named(launcher, artifacts):
    (artifacts / NAME / "model_repository/tiny_search/1/model.py").unlink()
    assert failure(launcher) == "model tiny_search lacks its model.py: build it again"


def test_a_server_that_captions_the_known_image_otherwise_is_never_ready(launcher, artifacts):
    (artifacts / NAME / "canary/canary.json").write_text(json.dumps({"captions": ["a dog"]}))
    assert failure(launcher) == f"tiny_caption captions its known image '{caption_of(IMAGE)}', not 'a dog'"


def test_a_server_may_choose_another_of_the_known_images_captions(launcher, artifacts):
    """Two captions can be equally good, and another processor rounds otherwise."""
    (artifacts / NAME / "canary/canary.json").write_text(json.dumps({"captions": ["a dog", caption_of(IMAGE)]}))
    with launcher:  # which waits until it is ready
        pass


def test_a_server_that_refuses_the_known_image_is_never_ready(launcher, artifacts):
    (artifacts / NAME / "canary/image").write_bytes(b"")
    assert "could not caption its known image: in ensemble 'tiny_caption', EMPTY_IMAGE" in failure(launcher)


def test_a_missing_known_image_is_told(launcher, artifacts):
    (artifacts / NAME / "canary/image").unlink()
    assert failure(launcher) == "tiny_caption has no known image to be tried with: build it again"


def test_a_model_that_never_loads_ends_the_start_in_time(artifacts, tmp_path):
    slow = artifacts / NAME / "model_repository/tiny_search/1/model.py"
    slow.write_text(SLOW_START + slow.read_text())
    reason = failure(ServerProcess(artifacts, [NAME], tmp_path, ["--start-timeout=3"]))
    assert reason == "the server was not ready after 3 s (--start-timeout)"


def test_too_little_shared_memory_is_told_before_the_start(launcher, artifacts):
    config = artifacts / NAME / "model_repository/tiny_search/config.pbtxt"
    config.write_text(config.read_text().replace("dims: [6]", "dims: [1000000000000]"))
    assert "MiB free and the models need" in failure(launcher)


def test_a_run_folder_that_cannot_be_written_is_named(artifacts, tmp_path):
    reason = failure(ServerProcess(artifacts, [NAME], tmp_path, ["--run-folder=/proc/ofa"]))
    assert reason.startswith("cannot write /proc/ofa (")
    assert reason.endswith("choose another place with --run-folder")


def test_a_model_of_two_checkpoints_is_named(artifacts, tmp_path):
    build_small_artifact(artifacts, "mini_caption")
    twin = artifacts / "mini_caption/model_repository/mini_search"
    with contextlib.suppress(FileNotFoundError):
        twin.rename(twin.with_name("tiny_search"))
    reason = failure(ServerProcess(artifacts, [NAME, "mini_caption"], tmp_path))
    assert reason == "tiny_caption and mini_caption both have a model 'tiny_search'"
