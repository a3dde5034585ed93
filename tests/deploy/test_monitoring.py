"""A real Prometheus scrapes a real run, and every panel, rule and scaling query finds its data there."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import programs
import pytest
from cases import CASES
from chart import CHART, render, values_of, yaml
from ofa_client import Captioner, CaptionServiceError

CASE = CASES[0]
LABELS = {"namespace": "vision", "release": "captions", "pod": "captions-server-0", "container": "server"}
ONLY_WITH = ("nv_gpu_", "nv_cache_")
SCRAPES = 12


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """The URL of a Prometheus that has seen the session's server caption and refuse, for some seconds."""
    program = programs.need("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    write_configuration(folder, server)
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *flags, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
    try:
        caption_for_a_while(server)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def write_configuration(folder, server):
    shutil.copy(CHART / "files/rules.yaml", folder)
    target = urllib.parse.urlsplit(server.metrics_url).netloc
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": "vision/captions-server", "static_configs": [{"targets": [target], "labels": LABELS}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))


def caption_for_a_while(server):
    end = time.monotonic() + SCRAPES
    with Captioner(f"grpc://{server.grpc_url}", model=CASE.model_name) as captioner:
        while time.monotonic() < end:
            captioner.caption(CASE.images[0])
            with contextlib.suppress(CaptionServiceError):
                captioner.caption(b"no image")
            time.sleep(0.3)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(prometheus, expression):
    """The instant values of a query; no NaN counts."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.loads(answer.read())["data"]["result"]
    return [sample for sample in result if sample["value"][1] != "NaN"]


def panel_queries():
    """Each query of the dashboard with Grafana's variables filled in; some need a GPU or a cache."""
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            if not any(name in target["expr"] for name in ONLY_WITH):
                expression = target["expr"].replace("$release", "captions").replace("$model", ".*")
                expression = expression.replace("$__rate_interval", "10s")
                yield pytest.param(expression, id=f"{panel['title']}: {target['legendFormat']}")


def test_the_dashboard_is_the_one_its_script_writes():
    script = Path(CHART).parents[1] / "grafana/dashboard.py"
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import dashboard, json; "
    written = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(dashboard.dashboard()))"], capture_output=True, check=True
    ).stdout
    assert json.loads(written) == json.loads((CHART / "files/dashboard.json").read_text())


@pytest.mark.parametrize("expression", list(panel_queries()))
def test_every_panel_shows_data(prometheus, expression):
    assert ask(prometheus, expression)


def test_releases_can_be_compared(prometheus):
    """What fails and how long captions take are a line for each; every other panel is of the releases one chooses."""
    panels = {panel["title"]: panel for panel in json.loads((CHART / "files/dashboard.json").read_text())["panels"]}
    for title in ("Failed requests", "Time to a caption"):
        for target in panels[title]["targets"]:
            assert "{{release}}" in target["legendFormat"]
    (failed,) = panels["Failed requests"]["targets"]
    expression = failed["expr"].replace("$release", ".*").replace("$model", ".*").replace("$__rate_interval", "10s")
    (bad_image,) = ask(prometheus, expression.replace("OVERLOADED|", "UNSUPPORTED_FORMAT|"))
    assert bad_image["metric"] == {"release": "captions"}


def test_every_record_that_an_alert_reads_is_recorded(prometheus):
    rules = yaml.safe_load((CHART / "files/rules.yaml").read_text())
    records = [rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule]
    deadline = time.monotonic() + 30  # the group is evaluated every 15 s
    while missing := [record for record in records if not ask(prometheus, record)]:
        assert time.monotonic() < deadline, missing
        time.sleep(1)


def test_no_alert_of_a_server_in_order_fires(prometheus):
    """Those on speed say as much of the machine that runs the test."""
    with urllib.request.urlopen(f"{prometheus}/api/v1/alerts", timeout=10) as answer:
        alerts = json.loads(answer.read())["data"]["alerts"]
    firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
    assert not {name for name in firing if not name.startswith(("OfaLatency", "OfaQueueing"))}


def test_what_keda_asks_has_an_answer(prometheus):
    triggers = render(values_of("gpu-s3-keda"))["ScaledObject", "captions-server"]["spec"]["triggers"]
    for trigger in triggers:
        (sample,) = ask(prometheus, trigger["metadata"]["query"])
        assert float(sample["value"][1]) >= 0


def test_what_the_adapter_asks_has_an_answer_for_each_pod(prometheus):
    rules = yaml.safe_load((CHART / "files/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        query = rule["metricsQuery"]
        for field, text in (("Series", series), ("LabelMatchers", 'namespace="vision"'), ("GroupBy", "pod")):
            query = query.replace(f"<<.{field}>>", text)
        (sample,) = ask(prometheus, query)
        assert sample["metric"] == {"pod": LABELS["pod"]}
