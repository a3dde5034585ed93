"""What the launcher reads of a built checkpoint: its models, and the shared memory they need."""

import pytest
from ofa_serving.launcher.artifact import load_artifact
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.shared_memory import ModelMemory
from small_repository import CONFIGS, NAME, add_model, build_small_artifact, replace_ensemble, sign

MEBIBYTE = 2**20
PIXELS = 4 * 4 * 3
HIDDEN = 6 * 4
BATCH = 8
TEXT = 1024
SCORE = 4
IMAGE = 4 * MEBIBYTE


@pytest.fixture
def artifacts(tmp_path):
    build_small_artifact(tmp_path)
    return tmp_path


def test_each_model_of_a_process_of_its_own_is_counted_with_its_batch(artifacts):
    assert load_artifact(artifacts, NAME).memory() == [
        ModelMemory(instances=1, in_flight=8, bytes_each=PIXELS + HIDDEN + BATCH),  # tiny_encoder
        ModelMemory(instances=1, in_flight=8, bytes_each=IMAGE + PIXELS),  # tiny_preprocess
        ModelMemory(instances=1, in_flight=8, bytes_each=HIDDEN + TEXT + SCORE),  # tiny_search
    ]


def test_instances_are_counted(artifacts):
    config = artifacts / NAME / "model_repository/tiny_preprocess/config.pbtxt"
    config.write_text(config.read_text().replace("kind: KIND_CPU", "kind: KIND_CPU count: 3"))
    assert load_artifact(artifacts, NAME).memory()[1].instances == 3


def test_an_entry_holds_its_stages_answers_and_bounds_their_requests(artifacts):
    replace_ensemble(artifacts / NAME)
    search = artifacts / NAME / "model_repository/tiny_search/config.pbtxt"
    search.write_text(search.read_text() + 'parameters { key: "max_in_flight" value { string_value: "272" } }')
    entry, _, _, search = load_artifact(artifacts, NAME).memory()
    answers = (HIDDEN + BATCH) + PIXELS + (TEXT + SCORE)
    assert entry == ModelMemory(instances=1, in_flight=64, bytes_each=IMAGE + 129 * TEXT + answers)
    assert search == ModelMemory(instances=1, in_flight=64, bytes_each=HIDDEN + TEXT + SCORE)


def test_an_artifact_knows_its_names(artifacts):
    artifact = load_artifact(artifacts, NAME)
    assert [model.name for model in artifact.models] == [NAME, "tiny_encoder", "tiny_preprocess", "tiny_search"]
    assert (artifact.name, artifact.needs_gpu) == (NAME, False)


def test_another_checkpoints_folder_is_refused(artifacts):
    (artifacts / NAME).rename(artifacts / "renamed")
    with pytest.raises(LaunchError, match="is of tiny_caption: build renamed again"):
        load_artifact(artifacts, "renamed")


def test_a_repository_without_the_public_model_is_refused(artifacts):
    (artifacts / NAME / "model_repository" / NAME).rename(artifacts / "away")
    with pytest.raises(LaunchError, match="the repository of tiny_caption has no model of that name"):
        load_artifact(artifacts, NAME)


def test_a_graph_under_another_file_name_is_found(artifacts):
    repository = artifacts / NAME / "model_repository"
    named = CONFIGS["tiny_encoder"] + '\ndefault_model_filename: "encoder.onnx"'
    add_model(repository, "named", named, "encoder.onnx", (repository / "tiny_encoder/1/model.onnx").read_bytes())
    sign(artifacts / NAME)
    assert "named" in [model.name for model in load_artifact(artifacts, NAME).models]
