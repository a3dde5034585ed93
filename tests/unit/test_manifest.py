"""The manifest says what was built, and refuses in one line what cannot be served here."""

import json

import pytest
from ofa_serving import manifest as manifest_module
from ofa_serving.host import Gpu, installed_version
from ofa_serving.manifest import CheckpointRecord, FileRecord, Manifest, ManifestError

ENGINE = "model_repository/ofa_encoder/1/model.onnx"
H200 = Gpu("NVIDIA H200", "9.0")


def built(folder, **changes) -> Manifest:
    engine = folder / ENGINE
    if not engine.exists():
        engine.parent.mkdir(parents=True)
        engine.write_bytes(b"a graph")
    fields = {
        "name": "ofa_caption",
        "checkpoint": CheckpointRecord("ofa-tiny", "modelscope", "ab" * 32),
        "language": "zh",
        "sizes": {"image_size": 480, "d_model": 256},
        "engine": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
        "gpu": None,
        "versions": {"onnxruntime": installed_version("onnxruntime"), "torch": "2.13.0"},
        "files": (FileRecord.of(folder, engine),),
        "created": "2025-01-01T00:00:00Z",
    }
    return Manifest(**fields | changes)


def refusal(manifest, folder) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest.verify(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("gpu", [None, H200])
def test_what_is_written_is_read_back(tmp_path, gpu):
    manifest = built(tmp_path, gpu=gpu)
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["manifest.json"]


def test_an_undamaged_build_is_accepted(tmp_path):
    built(tmp_path).verify(tmp_path)


def test_a_file_is_recorded_by_relative_path_size_and_sha256(tmp_path):
    (record,) = built(tmp_path).files
    assert record == FileRecord(ENGINE, 7, "170df6144b15bdf1dced878e45ebdb2dac95d0b1a3bc68459434bbbd88681157")


def test_no_manifest_means_not_built(tmp_path):
    with pytest.raises(ManifestError, match="build the checkpoint first"):
        Manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize("text", ["{", "[]", '"schema"', '{"schema": 2}', '{"schema": 2, "checkpoint": 3}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="again"):
        Manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize("schema", [0, 1, 3, None])
def test_another_schema_is_refused_by_number(tmp_path, schema):
    built(tmp_path).write(tmp_path / "manifest.json")
    document = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(document | {"schema": schema}))
    with pytest.raises(ManifestError, match=f"has schema {schema}, this server reads 2"):
        Manifest.read(tmp_path / "manifest.json")


def test_a_missing_engine_is_named(tmp_path):
    manifest = built(tmp_path)
    (tmp_path / ENGINE).unlink()
    assert refusal(manifest, tmp_path) == f"ofa_caption lacks {ENGINE}: build it again"


def test_a_truncated_engine_is_named(tmp_path):
    manifest = built(tmp_path)
    (tmp_path / ENGINE).write_bytes(b"a gra")
    assert "is damaged (5 bytes instead of 7)" in refusal(manifest, tmp_path)


def test_an_engine_with_other_bytes_is_named(tmp_path):
    manifest = built(tmp_path)
    (tmp_path / ENGINE).write_bytes(b"A graph")
    assert refusal(manifest, tmp_path) == f"{ENGINE} of ofa_caption is damaged (its hash differs): build it again"


@pytest.fixture
def whole(tmp_path):
    """A manifest as the builder writes it: of every file."""
    config = tmp_path / "model_repository/ofa_encoder/config.pbtxt"
    built(tmp_path)
    config.write_text('name: "ofa_encoder"')
    return built(tmp_path, files=tuple(FileRecord.of(tmp_path, path) for path in (tmp_path / ENGINE, config)))


@pytest.mark.parametrize("path", ["other/config.pbtxt", "ofa_encoder/2/model.py", "ofa_encoder/1/model.onnx.data"])
def test_a_file_that_the_builder_did_not_make_is_named(tmp_path, whole, path):
    added = tmp_path / "model_repository" / path
    added.parent.mkdir(parents=True, exist_ok=True)
    added.write_text("")
    message = f"model_repository/{path} of ofa_caption is not in its manifest: remove it or build it again"
    assert refusal(whole, tmp_path) == message


def test_a_model_behind_a_link_is_named_too(tmp_path, whole):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.pbtxt").write_text("")
    (tmp_path / "model_repository/other").symlink_to(tmp_path / "elsewhere")
    assert refusal(whole, tmp_path).startswith("model_repository/other/config.pbtxt of ofa_caption is not")


def test_what_python_compiled_is_no_news(tmp_path, whole):
    cache = tmp_path / "model_repository/ofa_encoder/1/__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"")
    whole.verify(tmp_path)


def test_a_graph_runs_in_later_versions_of_its_runtime(tmp_path):
    built(tmp_path, versions={"onnxruntime": "1.9.2"}).verify(tmp_path)


def test_a_graph_of_a_later_runtime_is_refused(tmp_path):
    message = refusal(built(tmp_path, versions={"onnxruntime": "99.0.0"}), tmp_path)
    assert message.startswith("ofa_caption was built with onnxruntime 99.0.0, ")


def test_an_engine_without_a_version_is_refused(tmp_path):
    assert "names no version" in refusal(built(tmp_path, versions={}), tmp_path)


def test_an_engine_whose_runtime_is_absent_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "installed_version", lambda package: None)
    plan = built(tmp_path, engine="tensorrt", versions={"tensorrt": "10.9.0"})
    assert refusal(plan, tmp_path) == "ofa_caption needs tensorrt 10.9.0, which is not installed"


@pytest.mark.parametrize("installed", ["10.8.0", "10.9.1", "11.0.0"])
def test_a_plan_of_another_version_is_refused(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(manifest_module, "installed_version", lambda package: installed)
    plan = built(tmp_path, engine="tensorrt", versions={"tensorrt": "10.9.0"})
    assert f"built with tensorrt 10.9.0, {installed} is installed" in refusal(plan, tmp_path)


def test_files_can_be_verified_where_they_could_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "visible_gpu", lambda: None)
    plan = built(tmp_path, device="gpu", gpu=H200, engine="tensorrt", versions={"tensorrt": "10.9.0"})
    plan.verify_files(tmp_path)
    (tmp_path / ENGINE).write_bytes(b"A graph")
    with pytest.raises(ManifestError, match="is damaged"):
        plan.verify_files(tmp_path)


def test_a_build_for_a_gpu_is_refused_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "visible_gpu", lambda: None)
    assert "this machine shows none" in refusal(built(tmp_path, device="gpu", gpu=H200), tmp_path)


def test_a_plan_for_another_gpu_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "visible_gpu", lambda: Gpu("NVIDIA L4", "8.9"))
    message = refusal(built(tmp_path, device="gpu", gpu=H200), tmp_path)
    assert "NVIDIA H200 (compute capability 9.0)" in message
    assert "NVIDIA L4 (8.9)" in message


def test_a_plan_for_this_gpu_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "visible_gpu", lambda: Gpu("NVIDIA H200 NVL", "9.0"))
    built(tmp_path, device="gpu", gpu=H200).verify(tmp_path)
