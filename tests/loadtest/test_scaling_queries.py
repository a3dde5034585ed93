"""A real Prometheus, given what the replayed servers show, answers the adapter's queries as the replay did."""

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import programs
import pytest

pytest.importorskip("helm_python", reason="needs the extra 'deploy'")

from loadtest.knee import TARGET_LOAD
from loadtest.scaling.autoscaler import Autoscaler
from loadtest.scaling.chart import adapter_query, autoscaler_spec
from loadtest.scaling.curve import ServiceCurve
from loadtest.scaling.day import RUSH, rates_of_a_day
from loadtest.scaling.openmetrics import write_openmetrics
from loadtest.scaling.replay import IN_FLIGHT, RATE, RATIO, replay

CURVE = Path(__file__).parents[1] / "data/service-curve.json"
PEAK_SERVERS = 6
BEGIN = 1_700_000_000
WARM_SECONDS = 180
"""Until a pod's ranges are full."""


@pytest.fixture(scope="module")
def curve():
    return ServiceCurve.read(CURVE)


@pytest.fixture(scope="module")
def spec(curve):
    return autoscaler_spec({"autoscaling": {"requestsPerSecond": f"{TARGET_LOAD * curve.knee:.2f}"}})


@pytest.fixture(scope="module")
def rush(curve, spec):
    """The hour around the rush."""
    rates = rates_of_a_day(PEAK_SERVERS * TARGET_LOAD * curve.knee)[RUSH[0] - 900 : RUSH[1] + 1800]
    return replay(rates, curve, spec, start_seconds=60)


@pytest.fixture(scope="module")
def prometheus(rush, tmp_path_factory):
    """Its URL."""
    server, tool = programs.need("prometheus"), programs.need("promtool")
    folder = tmp_path_factory.mktemp("rush")
    with (folder / "metrics").open("w") as out:
        write_openmetrics(out, rush.scrapes, BEGIN)
    command = [tool, "tsdb", "create-blocks-from", "openmetrics", folder / "metrics", folder / "data"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (folder / "prometheus.yml").write_text("")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    flags += ["--storage.tsdb.retention.time=100y", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, *flags], stderr=log)
    try:
        wait_until_ready(f"http://{address}/-/ready", process, folder / "log")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url, process, log):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)


def ask(prometheus, metric, syncs):
    """The adapter's query at the moments of the controller's rounds: by second, the value of each pod."""
    first, last = BEGIN + syncs[0].second, BEGIN + syncs[-1].second
    fields = {"query": adapter_query(metric), "start": first, "end": last, "step": syncs[1].second - syncs[0].second}
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(fields)}", timeout=60
    ) as answer:
        series = json.loads(answer.read())["data"]["result"]
    values = {}
    for one in series:
        for moment, value in one["values"]:
            if value != "NaN":
                values.setdefault(int(moment) - BEGIN, {})[one["metric"]["pod"]] = float(value)
    return values


@pytest.mark.parametrize("metric", [RATE, IN_FLIGHT, RATIO])
def test_prometheus_finds_what_the_replay_computed(prometheus, rush, metric):
    answers = ask(prometheus, metric, rush.syncs)
    compared = 0
    for sync in rush.syncs:
        old = [pod for pod in sync.ready if rush.scrapes[pod][0].second <= sync.second - WARM_SECONDS]
        for pod in old:
            assert answers[sync.second][pod] == pytest.approx(sync.values[metric][pod], rel=0.05, abs=0.02)
            compared += 1
    assert compared > 100


def test_its_answers_lead_to_the_same_decisions(prometheus, rush, spec):
    answers = {metric: ask(prometheus, metric, rush.syncs) for metric in (RATE, IN_FLIGHT, RATIO)}
    same = 0
    settled = [sync for sync in rush.syncs if sync.second >= WARM_SECONDS]
    for sync in settled:
        values = {
            metric: {pod: value for pod, value in found.get(sync.second, {}).items() if pod in sync.ready}
            for metric, found in answers.items()
        }
        scaler = Autoscaler(spec, sync.before)
        asked, computed = (
            max(scaler.recommend(source[name], target, sync.ready) for name, target in scaler.targets.items())
            for source in (values, sync.values)
        )
        assert abs(asked - computed) <= 1
        same += asked == computed
    assert same / len(settled) > 0.95
