"""What the load test sends and what it concludes, against servers that behave as no real one can be told to."""

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.mix import OK, default_mix
from loadtest.plan import Plan

LOCUST = importlib.util.find_spec("locust")
pytestmark = pytest.mark.skipif(LOCUST is None, reason="needs the extra 'loadtest'")

ROOT = Path(__file__).parents[2]
FIRST = sum(case.expected == OK for case in default_mix())
CAPTION = b"a caption"


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts its requests and lets ``then(number, context)`` do with each what it will before the caption."""

    def __init__(self, then):
        self._then, self._lock, self.seen = then, threading.Lock(), 0
        self.metadata = []

    def ModelInfer(self, request, context):
        with self._lock:
            self.seen += 1
            number = self.seen
            self.metadata.append(dict(context.invocation_metadata()))
        self._then(number, context)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="caption", datatype="BYTES", shape=[1, 1])
        answer.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.extend([struct.pack("<I", len(CAPTION)) + CAPTION, struct.pack("<f", -1)])
        return answer


@contextmanager
def scripted(then=lambda number, context: None):
    """Its URL and the service, for as long as the context lasts."""
    service = Service(then)
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", service
    finally:
        server.stop(0)


def start(folder, url, *flags):
    """The command, begun; bad input gets captions here, so the verdict is always "failed" once there is one."""
    command = [sys.executable, "-m", "loadtest", f"--url={url}", f"--out={folder}", *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def run(folder, url, *flags):
    """Its exit code and what it printed."""
    with start(folder, url, *flags) as process:
        printed, _ = process.communicate(timeout=600)
    return process.returncode, printed


def results(folder):
    return [json.loads(line) for path in folder.glob("results-*.jsonl") for line in path.read_text().splitlines()]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def await_file(path, seconds=300):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_hanging_server_never_answers_counts(workers, tmp_path):
    released = threading.Event()

    def hang(number, _context):
        if number > FIRST * workers + 4:
            released.wait(300)

    flags = ["--shape=constant", "--rate=4", "--seconds=4", "--timeout=6", f"--workers={workers}"]
    with scripted(hang) as (url, service):
        code, printed = run(tmp_path, url, *flags)
        released.set()
    assert code == 1, printed
    assert "wrong_share is " in printed
    late = [result for result in results(tmp_path) if result["code"] in ("DEADLINE_EXCEEDED", "UNANSWERED")]
    assert len(late) >= service.seen - FIRST * workers - 4 > 0
    assert len(list(tmp_path.glob("done-*"))) == workers


def test_a_worker_whose_results_are_missing_is_told(tmp_path):
    flags = ["--shape=constant", "--rate=2", "--seconds=5", "--timeout=30", "--workers=2"]
    with scripted() as (url, _), start(tmp_path, url, *flags) as process:
        await_file(tmp_path / "start.json")
        worker = next(tmp_path.glob("ready-*")).name.partition("-")[2]
        os.kill(int(worker), signal.SIGKILL)
        printed, _ = process.communicate(timeout=600)
    assert process.returncode == 2, printed
    assert "1 of 2 processes did not write their results: nothing can be judged" in printed


def test_a_generator_that_stands_still_is_late_and_sends_what_was_due(tmp_path):
    flags = ["--shape=constant", "--rate=10", "--seconds=10", "--timeout=30"]
    with scripted() as (url, _), start(tmp_path, url, *flags) as process:
        await_file(tmp_path / "start.json")
        time.sleep(1.5)
        (locust,) = children(process.pid)
        os.kill(locust, signal.SIGSTOP)
        time.sleep(2)
        os.kill(locust, signal.SIGCONT)
        printed, _ = process.communicate(timeout=600)
    lags = [result["lag"] for result in results(tmp_path)]
    assert max(lags) > 1.5
    assert len(lags) >= 30
    assert "failed: generator_lag_p99_seconds is " in printed


def test_the_proxys_limit_for_one_caller_gives_no_knee(tmp_path):
    def refuse(number, context):
        if number > FIRST + 1:
            message = "OVERLOADED: too many requests of one caller; try again in 1 s"
            context.abort(grpc.StatusCode.UNAVAILABLE, message)

    with scripted(refuse) as (url, _):
        code, printed = run(tmp_path, url, "--shape=constant", "--rate=4", "--seconds=3")
    assert code == 1
    assert "Nothing tells what is kept up with. At 4 requests/s the proxy refused " in printed
    assert "raise proxy.perCaller" in printed


def test_a_key_is_sent_as_the_clients_own_variables_say(tmp_path, monkeypatch):
    monkeypatch.setenv("OFA_API_KEY", "a-key")
    with scripted() as (url, service):
        run(tmp_path, url, "--shape=constant", "--rate=1", "--seconds=1")
    assert {metadata.get("authorization") for metadata in service.metadata} == {"Bearer a-key"}


def test_a_server_that_captions_nothing_is_told_with_its_reason(tmp_path):
    for old in ("report.html", "locust.html"):
        (tmp_path / old).write_text("an earlier run's")
    code, printed = run(tmp_path, "grpc://127.0.0.1:1", "--shape=constant", "--rate=1", "--seconds=1")
    assert code == 2
    assert "no load could be made against grpc://127.0.0.1:1: no caption without load: UNAVAILABLE: " in printed
    assert not any("an earlier run's" in page.read_text() for page in tmp_path.glob("*.html"))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_command_leaves_nothing_behind_when_it_is_ended(number, code, tmp_path):
    with scripted() as (url, _), start(tmp_path, url, "--shape=constant", "--rate=2", "--seconds=60") as process:
        await_file(tmp_path / "start.json")
        begun = children(process.pid)
        begun += [grandchild for child in begun for grandchild in children(child)]
        process.send_signal(number)
        process.communicate(timeout=300)
    assert process.returncode == code
    assert len(begun) == 2
    end = time.monotonic() + 300
    while any(alive(pid) for pid in begun) and number == signal.SIGKILL:  # it waited for nobody
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not any(alive(pid) for pid in begun)


def test_a_command_that_is_to_outlive_its_terminal_does():
    command = "trap '' HUP; exec \"$0\" -c 'from loadtest.servers import leave_in_order as leave; leave(); "
    command += "import os, signal; os.kill(os.getpid(), signal.SIGHUP)'"
    assert subprocess.run(["sh", "-c", command, sys.executable], cwd=ROOT, check=False).returncode == 0


def alive(pid):
    """Whether it still runs; one that nobody has waited for yet does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_cannot_be_judged_is_told_before_any_load(tmp_path):
    with scripted() as (url, service):
        code, printed = run(tmp_path, url, "--shape=steps", "--rate=100")
    assert (code, service.seen) == (2, 0)
    assert "the lowest step has 25 requests/s, and only up to 4 is judged" in printed


def test_wrong_thresholds_and_counters_are_told_before_any_load(tmp_path):
    (tmp_path / "thresholds.yaml").write_text("rate: 4\np50_seconds: {maximum: 1}")
    with scripted() as (url, service):
        misspelt = run(tmp_path, url, f"--thresholds={tmp_path / 'thresholds.yaml'}")
        elsewhere = run(tmp_path, url, "--metrics-url=http://127.0.0.1:1/metrics")
    assert (misspelt[0], elsewhere[0], service.seen) == (2, 2, 0)
    assert "p50_seconds takes a number as min, max or both" in misspelt[1]
    assert "no counters at http://127.0.0.1:1/metrics" in elsewhere[1]
    assert (misspelt[1].count("\n"), elsewhere[1].count("\n")) == (1, 1)


def test_a_capacity_is_told_without_a_verdict(tmp_path):
    with scripted() as (url, _):
        flags = ["--shape=constant", "--rate=6", "--seconds=2", "--judged=4", "--servers=4", "--wanted-rate=500"]
        code, printed = run(tmp_path, url, *flags)
    assert code == 0, printed
    assert "Nothing was judged: only up to 4 requests/s is." in printed
    assert f"not judged: {tmp_path / 'report.html'}" in printed


def test_servers_are_not_counted_from_the_knee_of_an_unknown_number(tmp_path):
    code, printed = run(tmp_path, "grpc://127.0.0.1:1", "--wanted-rate=100")
    assert code == 2
    assert "say how many servers stand behind the address" in printed


@pytest.mark.parametrize(("shape", "rate"), [("steps", 8), ("steps", 0.1), ("constant", 0.3), ("spike", 0.7)])
def test_a_whole_number_of_users_makes_each_rate(shape, rate):
    plan = Plan("grpc://x:1", "m", shape, rate, 10, 1, 30)
    assert plan.user_rate <= 0.25
    for step in plan.steps:
        assert step.rate / plan.user_rate == pytest.approx(round(step.rate / plan.user_rate))


def test_slow_models_get_the_time_that_their_captions_may_take():
    plan = Plan("grpc://x:1", "m", "constant", 1, 10, 1, timeout=90)
    assert plan.ready_seconds(FIRST) == FIRST * 90
    assert plan.drain_seconds > plan.timeout
    assert plan.longest_seconds(FIRST) > plan.ready_seconds(FIRST) + 10 + plan.drain_seconds
