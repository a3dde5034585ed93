"""``ofa-helm-values``: a built checkpoint's values, on whatever machine; the chart's side is tested in tests/deploy."""

import dataclasses
import json

import pytest
from ofa_serving import manifest as manifest_module
from ofa_serving.host import Gpu
from ofa_serving.launcher import helm_values
from ofa_serving.manifest import FILE_NAME, Manifest
from small_repository import NAME, build_small_artifact


@pytest.fixture
def artifact(tmp_path):
    return build_small_artifact(tmp_path)


@pytest.fixture
def printed(artifact, capsys):
    """A function that gives the command's exit code and what it printed."""

    def run():
        code = helm_values.main([NAME, f"--artifacts={artifact.parent}"])
        return code, capsys.readouterr().out

    return run


def change(artifact, **fields):
    path = artifact / FILE_NAME
    dataclasses.replace(Manifest.read(path), **fields).write(path)


def test_a_gpus_artifact_needs_no_gpu(artifact, printed, monkeypatch):
    plan = {"engine": "tensorrt", "versions": {"tensorrt": "10.9.0"}}
    change(artifact, device="gpu", gpu=Gpu("NVIDIA H200", "9.0"), **plan)
    monkeypatch.setattr(manifest_module, "visible_gpu", lambda: None)
    code, text = printed()
    assert (code, json.loads(text)["profile"]) == (0, "gpu")


def test_a_damaged_artifact_has_no_values(artifact, printed):
    next(artifact.glob("model_repository/*/1/model.onnx")).write_bytes(b"")
    assert printed() == (1, "")


def test_another_build_has_another_annotation(artifact, printed):
    _, first = printed()
    assert printed() == (0, first)
    change(artifact, created="2025-01-02T00:00:00Z")
    _, second = printed()
    annotations = [json.loads(text)["podAnnotations"]["checksum/models"] for text in (first, second)]
    assert annotations[0] != annotations[1]
