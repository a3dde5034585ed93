"""Copies of an artifact that serve otherwise, for measuring what a part of the design is worth."""

import pytest
from cases import CASES
from google.protobuf import text_format
from ofa_serving.manifest import FILE_NAME, Manifest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.ways.static_batches import replace_search
from benchmarks.ways.step_by_call import move_graphs
from loadtest.variants import variant, without_dynamic_batching, without_inflight_batching

CASE = CASES[0]


def config(artifact, model):
    path = artifact / f"model_repository/{CASE.model_name}_{model}/config.pbtxt"
    return text_format.Parse(path.read_text(), ModelConfig())


def test_a_variant_is_whole_and_changes_nothing_of_what_it_was_made_from(artifacts, tmp_path):
    artifact = artifacts(CASE)
    changed = variant(artifact, tmp_path, without_dynamic_batching, without_inflight_batching)
    Manifest.read(changed / FILE_NAME).verify(changed)
    Manifest.read(artifact / FILE_NAME).verify(artifact)
    assert not config(changed, "encoder").HasField("dynamic_batching")
    assert config(artifact, "encoder").HasField("dynamic_batching")
    assert config(changed, "beam_search").parameters["max_captions"].string_value == "1"
    assert config(artifact, "beam_search").parameters["max_captions"].string_value != "1"


@pytest.mark.parametrize("change", [replace_search, move_graphs])
def test_so_is_one_with_other_models(artifacts, tmp_path, change):
    artifact = artifacts(CASE)
    changed = variant(artifact, tmp_path, change)
    Manifest.read(changed / FILE_NAME).verify(changed)
    Manifest.read(artifact / FILE_NAME).verify(artifact)
