"""What the images add to the launcher: a Triton of the machine's own, the probe, the chart's values."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cases import CASES
from ofa_serving.launcher import embedded, helm_values, probe
from ofa_serving.launcher.artifact import load_artifact
from ofa_serving.launcher.canary import Busy, Canary, kept_folder
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


def flags(server):
    return [CASE.model_name, f"--run-folder={run_folder(server)}", f"--grpc-port={grpc_port(server)}"]


def run_folder(server):
    return server.log_path.parent / "run"


def grpc_port(server):
    return int(server.grpc_url.rpartition(":")[2])


def test_the_probe_passes_on_a_server_that_captions_and_needs_no_artifact(server, tmp_path):
    assert probe.main([*flags(server), f"--artifacts={tmp_path}"]) == 0


def test_the_probe_fails_without_a_server(server, tmp_path, caplog):
    canary_of(server).keep(kept_folder(tmp_path, 1, CASE.model_name))
    assert probe.main([*flags(server), f"--run-folder={tmp_path}", "--grpc-port=1"]) == 1
    assert "could not caption its known image" in caplog.text


def test_the_probe_fails_on_a_wrong_caption(server, tmp_path, caplog):
    other = replace(canary_of(server), captions=("something else",))
    other.keep(kept_folder(tmp_path, grpc_port(server), CASE.model_name))
    assert probe.main([*flags(server), f"--run-folder={tmp_path}"]) == 1
    assert "not 'something else'" in caplog.text


def canary_of(server):
    return Canary.load(kept_folder(run_folder(server), grpc_port(server), CASE.model_name), CASE.model_name)


def test_a_busy_server_passes_the_probe(server, monkeypatch):
    monkeypatch.setattr(probe.Canary, "check", refuse)
    assert probe.main(flags(server)) == 0


def refuse(_canary, _url, _timeout, _stopping):
    raise Busy("ofa_caption could not caption its known image: OVERLOADED: too many requests")


def test_the_charts_values_hold_the_sizes_that_the_launcher_and_the_models_ask_for(artifacts, capsys):
    artifacts(CASE)
    assert helm_values.main([CASE.model_name, f"--artifacts={artifacts.folder}"]) == 0
    values = json.loads(capsys.readouterr().out)
    needed = required_bytes(load_artifact(artifacts.folder, CASE.model_name).memory())
    assert (values["sharedMemory"]["sizeMiB"] - 1) * 2**20 < needed <= values["sharedMemory"]["sizeMiB"] * 2**20
    assert (values["models"], values["profile"]) == ([CASE.model_name], "cpu")
    assert (values["proxy"], values["autoscaling"]) == ({"callsPerServer": 96}, {"imagesInFlight": 12})
