"""The recording and alert rules, by Prometheus's own tool."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import programs
import pytest
from chart import CHART, NAMESPACE, RELEASE, helm, render, yaml
from ofa_serving.metrics import SECONDS

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def promtool():
    return programs.need("promtool")


def run(*command):
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"  # it writes a database
    environment = os.environ | {"TMPDIR": memory}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


PLAIN = CHART / "files/rules.yaml"
KUBERNETES = CHART / "files/rules-kubernetes.yaml"


def rendered(**monitoring):
    """The rules as the chart installs them."""
    documents = render({"monitoring": {"enabled": True, **monitoring}})
    return documents["PrometheusRule", RELEASE]["spec"]


def expressions(rules):
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered()))
    return tmp_path / "rules.yaml"


def test_the_rules_are_valid(promtool, rules):
    result = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", PLAIN, KUBERNETES, rules)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_when_it_should_and_not_before(promtool, rules):
    shutil.copy(HERE / "rules_test.yaml", rules.parent)
    result = run(promtool, "test", "rules", rules.parent / "rules_test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_unit_test():
    alerts = {rule["alert"] for group in rendered()["groups"] for rule in group["rules"] if "alert" in rule}
    assert {"OfaNoServer", "OfaNoneAvailable"} < alerts
    tested = (HERE / "rules_test.yaml").read_text()
    assert [alert for alert in alerts if f"alertname: {alert}" not in tested] == []


def test_a_release_hears_of_its_own_servers_and_proxies_alone():
    for expression in expressions(rendered()):
        selectors = re.findall(r"(\b(?:ofa|kube)[_:][a-z0-9_:]+)(\{[^}]*})?", expression)
        assert selectors, expression
        for name, matchers in selectors:
            assert f'namespace="{NAMESPACE}"' in matchers, (name, expression)
            scope = f'"{RELEASE}-(server|proxy)' if name.startswith("kube") else f'release="{RELEASE}"'
            assert scope in matchers, (name, expression)


def test_the_scrape_says_of_which_release_a_server_is():
    documents = render({"monitoring": {"enabled": True}})
    (endpoint,) = documents["PodMonitor", f"{RELEASE}-server"]["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "release", "replacement": RELEASE}]


def test_compose_needs_no_labels_that_only_kubernetes_gives():
    for expression in expressions(yaml.safe_load(PLAIN.read_text())):
        assert not re.search(r'(namespace|release)=~?"(?!\.\*")', expression)


def test_the_latency_that_is_promised_is_the_operators():
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["monitoring"]["properties"]
    assert set(schema["latencySeconds"]["enum"]) <= {str(bound) for bound in SECONDS}
    assert set(re.findall(r'le="([^"]+)"', " ".join(expressions(rendered())))) == {"2.5"}
    slower = rendered(latencySeconds="10.0")
    assert set(re.findall(r'le="([^"]+)"', " ".join(expressions(slower)))) == {"10.0"}
    assert "captions take over 10.0 s" in str(slower)
    assert "2.5" not in str(slower)
    for refused in ("3.0", "10"):
        with pytest.raises(helm.HelmError, match="latencySeconds"):
            rendered(latencySeconds=refused)
