"""The whole command against a real server: green as it is, red once the server is slowed on purpose."""

import importlib.util
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cases import CASES
from serving_process import ServerProcess

from loadtest.variants import variant

# Not imported: that would have gevent patch this whole process.
LOCUST = importlib.util.find_spec("locust")
pytestmark = [pytest.mark.server, pytest.mark.skipif(LOCUST is None, reason="needs the extra 'loadtest'")]

ROOT = Path(__file__).parents[2]
CASE = CASES[0]
SLOW_SECONDS = 2.0
THRESHOLDS = """
rate: 4
wrong_share: {max: 0}
p50_seconds: {max: 1.5}
"""


@pytest.fixture(scope="module")
def artifact(artifacts):
    return artifacts(CASE)


@pytest.fixture(scope="module")
def in_order(artifact, tmp_path_factory):
    with ServerProcess(artifact.parent, [CASE.model_name], tmp_path_factory.mktemp("in_order")) as server:
        yield server


def slowed(repository, names):
    """A change of a variant: every call of the beam search waits first."""
    model = repository / names.beam_search / "1/model.py"
    model.unlink()
    model.write_text(
        "import time\n"
        "from ofa_serving.models.beam_search import BeamSearchModel\n"
        "class TritonPythonModel(BeamSearchModel):\n"
        "    def execute(self, requests):\n"
        f"        time.sleep({SLOW_SECONDS})\n"
        "        super().execute(requests)\n"
    )


def run(server, folder, workers=1):
    """The command's exit code, what it printed, and its report."""
    thresholds = folder / "thresholds.yaml"
    thresholds.write_text(THRESHOLDS)
    flags = [f"--url=grpc://{server.grpc_url}", f"--metrics-url={server.metrics_url}", f"--model={CASE.model_name}"]
    flags += ["--shape=constant", "--rate=2", "--seconds=8", f"--thresholds={thresholds}", f"--out={folder}"]
    command = [sys.executable, "-m", "loadtest", *flags, f"--workers={workers}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr, (folder / "report.html").read_text()


class Page(HTMLParser):
    """What a reader of the report sees: its verdict, and how many plots it has."""

    def __init__(self, text):
        super().__init__()
        self.verdict, self.axes, self._reading = "", 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self._reading = "verdict" in (named.get("class") or "")
        self.axes += tag == "g" and (named.get("id") or "").startswith("axes_")

    def handle_data(self, data):
        if self._reading:
            self.verdict, self._reading = data, False


def test_a_server_in_order_passes(in_order, tmp_path):
    code, printed, report = run(in_order, tmp_path)
    assert code == 0, printed
    page = Page(report)
    assert (page.verdict, page.axes) == ("passed", 4)
    results = [json.loads(line) for path in tmp_path.glob("results-*.jsonl") for line in path.read_text().splitlines()]
    assert results
    assert all(result["code"] == result["expected"] for result in results)


def test_several_processes_share_the_load(in_order, tmp_path):
    code, printed, _ = run(in_order, tmp_path, workers=2)
    assert code == 0, printed
    assert len(list(tmp_path.glob("results-*.jsonl"))) == 2


def test_a_slowed_server_fails_and_the_report_says_by_what(artifact, tmp_path):
    slow = variant(artifact, tmp_path / "slow", slowed)
    with ServerProcess(slow.parent, [CASE.model_name], tmp_path) as server:
        code, printed, report = run(server, tmp_path)
    assert code == 1, printed
    assert Page(report).verdict == "failed"
    assert "failed: p50_seconds is " in printed
    assert "p50_seconds is " in report
