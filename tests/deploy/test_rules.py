"""The recording and alert rules, by Prometheus's own tool."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from chart import CHART

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def promtool():
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool: apt install prometheus")
    return program


def run(*command):
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"  # it writes a database
    environment = os.environ | {"TMPDIR": memory}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_the_rules_are_valid(promtool):
    result = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", CHART / "files/rules.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_when_it_should_and_not_before(promtool):
    result = run(promtool, "test", "rules", HERE / "rules_test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_unit_test():
    alerts = {line.split()[-1] for line in (CHART / "files/rules.yaml").read_text().splitlines() if "- alert:" in line}
    tested = (HERE / "rules_test.yaml").read_text()
    assert [alert for alert in alerts if f"alertname: {alert}" not in tested] == []
