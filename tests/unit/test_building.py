"""What ``build_artifact`` makes of a checkpoint, and what it refuses because it could not be served."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from ofa_build import artifact as artifact_module
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import CheckpointError, load_checkpoint
from ofa_build.model import OFA
from ofa_build.repository import Serving
from ofa_serving.manifest import FILE_NAME, Manifest, ManifestError
from small_checkpoints import golden_checkpoint


@pytest.fixture(scope="module")
def golden():
    return load_checkpoint(golden_checkpoint())


def build(checkpoint, folder, serving=None):
    return build_artifact(checkpoint, "golden", "tiny", folder, serving or Serving())


@pytest.fixture(scope="module")
def built(golden, tmp_path_factory):
    return build(golden, tmp_path_factory.mktemp("artifacts"))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_names_every_file_but_itself(built):
    manifest = Manifest.read(built / FILE_NAME)
    assert {record.path for record in manifest.files} == files(built) - {FILE_NAME}
    manifest.verify(built)


def test_captions_of_the_known_image_that_were_changed_are_refused(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "tiny")
    (folder / "canary" / "canary.json").write_text(json.dumps({"captions": ["anything"]}))
    with pytest.raises(ManifestError, match=r"canary/canary\.json of tiny is damaged"):
        Manifest.read(folder / FILE_NAME).verify(folder)


def test_plans_leave_nothing_of_the_graphs(golden, tmp_path, monkeypatch):
    monkeypatch.setattr("ofa_build.export.graphs.SINGLE_FILE_BYTES", 2**10)
    graphs = []

    def build_plan(graph, plan, _most):
        graphs.extend(files(graph.parent) & {graph.name, f"{graph.name}.data"})
        plan.write_bytes(b"a plan")

    monkeypatch.setattr(artifact_module, "build_plan", build_plan)
    folder = build(golden, tmp_path, Serving.on("gpu", "tensorrt", "fp32"))
    assert {"model.onnx.data", "step.onnx.data"} <= set(graphs)
    assert [path for path in files(folder) if "onnx" in path] == []
    assert len(list(folder.rglob("*.plan"))) == 3


@pytest.mark.parametrize(("positions", "fits"), [(126, False), (127, True)])
def test_positions_for_the_longest_caption(golden, tmp_path, positions, fits):
    config = replace(golden.config, max_position_embeddings=positions)
    torch.manual_seed(0)
    checkpoint = replace(golden, config=config, state_dict=OFA(config).state_dict())
    if fits:
        build(checkpoint, tmp_path)
        return
    with pytest.raises(CheckpointError, match=r"^max_position_embeddings is 126: .* takes 127 or more$"):
        build(checkpoint, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_caption_for_the_known_image_is_refused(golden, tmp_path):
    broken = {name: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor
              for name, tensor in golden.state_dict.items()}  # fmt: skip
    with pytest.raises(CheckpointError, match=r"^in fp32 the model has no caption for the known image"):
        build(replace(golden, state_dict=broken), tmp_path)
    assert not list(tmp_path.iterdir())
