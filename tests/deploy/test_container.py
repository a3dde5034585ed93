"""What the images add to the launcher: a Triton of the machine's own, the probe, the chart's values."""

import json
import os
from pathlib import Path

import pytest
from cases import CASES
from ofa_serving.launcher import embedded, helm_values, probe
from ofa_serving.launcher.artifact import load_artifact
from ofa_serving.launcher.canary import Busy
from ofa_serving.launcher.shared_memory import required_bytes
from serving_process import ServerProcess

CASE = CASES[0]


@pytest.fixture(scope="module")
def server(artifacts, tmp_path_factory):
    """A server laid out as NVIDIA's container is, run by the launcher as the image's command does."""
    artifacts(CASE)
    work = tmp_path_factory.mktemp("container")
    wheel = embedded.prepare(work / "run")
    (work / "bin").mkdir()
    os.link(wheel.binary, work / "bin/tritonserver")
    (work / "backends").symlink_to(wheel.backends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", wheel.environment["LD_LIBRARY_PATH"])
        patch.setenv("OFA_TRITON", str(work))
        with ServerProcess(artifacts.folder, [CASE.model_name], work) as process:
            yield process


def test_the_launcher_runs_a_triton_of_the_machines_own(server):
    binary = Path(f"/proc/{server.server_pid}/exe").readlink()
    assert binary.parts[-2:] == ("bin", "tritonserver")
    assert "pytriton" not in binary.parts


def flags(server, artifacts):
    return [CASE.model_name, f"--artifacts={artifacts.folder}", f"--grpc-port={server.grpc_url.rpartition(':')[2]}"]


def test_the_probe_passes_on_a_server_that_captions(server, artifacts):
    assert probe.main(flags(server, artifacts)) == 0


def test_the_probe_fails_without_a_server(server, artifacts, caplog):
    assert probe.main([*flags(server, artifacts), "--grpc-port=1"]) == 1
    assert "could not caption its known image" in caplog.text


def test_the_probe_fails_on_a_wrong_caption(server, artifacts, tmp_path, caplog):
    folder = tmp_path / CASE.model_name / "canary"
    folder.mkdir(parents=True)
    source = artifacts.folder / CASE.model_name / "canary"
    (folder / "image").write_bytes((source / "image").read_bytes())
    (folder / "canary.json").write_text('{"captions": ["something else"]}')
    assert probe.main([*flags(server, artifacts), f"--artifacts={tmp_path}"]) == 1
    assert "not 'something else'" in caplog.text


def test_a_busy_server_passes_the_probe(server, artifacts, monkeypatch, tmp_path):
    monkeypatch.setattr(probe.Canary, "check", refuse)
    assert probe.main(flags(server, artifacts)) == 0


def refuse(_canary, _url, _timeout):
    raise Busy("ofa_caption could not caption its known image: OVERLOADED: too many requests")


def test_the_charts_values_hold_the_sizes_that_the_launcher_and_the_models_ask_for(artifacts, capsys):
    artifacts(CASE)
    assert helm_values.main([CASE.model_name, f"--artifacts={artifacts.folder}"]) == 0
    values = json.loads(capsys.readouterr().out)
    needed = required_bytes(load_artifact(artifacts.folder, CASE.model_name).memory())
    assert (values["sharedMemory"]["sizeMiB"] - 1) * 2**20 < needed <= values["sharedMemory"]["sizeMiB"] * 2**20
    assert (values["models"], values["profile"]) == ([CASE.model_name], "cpu")
    assert (values["proxy"], values["autoscaling"]) == ({"callsPerServer": 96}, {"imagesInFlight": 12})
