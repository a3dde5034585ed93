"""The configurations, held against those in ``model_repository/``, which are what the bundled checkpoint gets."""

from dataclasses import replace

import pytest
from google.protobuf import text_format
from ofa_build.repository import SOURCES, Serving, Shape, as_text, model_configs
from ofa_serving.contract import Names
from ofa_serving.generation import GenerationConfig
from tritonclient.grpc import model_config_pb2 as pb

DISTILLED = Shape(image_size=480, source_length=908, d_model=256, language="en")
"""damo/ofa_image-caption_coco_distilled_en."""


def configs(name="ofa_caption", serving=None):
    return model_configs(Names(name), DISTILLED, GenerationConfig(), serving or Serving())


@pytest.mark.parametrize("model", Names().models)
def test_the_configurations_in_the_repository_are_the_distilled_checkpoint_s(model):
    golden = (SOURCES / model / "config.pbtxt").read_text()
    assert as_text(configs()[model]) == golden
    assert text_format.Parse(golden, pb.ModelConfig()) == configs()[model]


def test_another_name_renames_every_model():
    assert list(configs("coco")) == ["coco", "coco_preprocess", "coco_encoder", "coco_beam_search"]


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_gpu_changes_the_engines_only(engine):
    cpu, gpu = configs(), configs(serving=Serving(engine, device="gpu"))
    assert {name for name in cpu if cpu[name] != gpu[name]} == {"ofa_encoder", "ofa_beam_search"}
    for name in ("ofa_encoder", "ofa_beam_search"):
        assert gpu[name].backend == "python"
        assert gpu[name].parameters["device"].string_value == "gpu"
        assert gpu[name].instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU


def test_on_a_gpu_batches_of_64_are_taken():
    of = configs(serving=Serving.on("gpu", "onnxruntime", "fp16"))
    assert {config.max_batch_size for config in of.values()} == {64}
    assert of["ofa_beam_search"].parameters["max_captions"].string_value == "64"
    assert of["ofa_encoder"].HasField("dynamic_batching")


def test_states_stay_on_the_gpu_where_asked():
    of = configs(serving=replace(Serving.on("gpu", "onnxruntime", "fp16"), states_on_gpu=True))
    assert {name for name, config in of.items() if "states_on_gpu" in config.parameters} == {
        "ofa_caption",
        "ofa_encoder",
    }
    assert of["ofa_beam_search"].parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"


@pytest.mark.parametrize("serving", [Serving(), Serving.on("gpu", "onnxruntime", "fp16")], ids=["fp32", "fp16"])
def test_the_stages_tensors_fit_each_other(serving):
    of = configs(serving=serving)
    given = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for config in of.values() for tensor in config.output}
    for model in ("ofa_encoder", "ofa_beam_search"):
        for tensor in of[model].input:
            assert given[tensor.name] == (tensor.data_type, tuple(tensor.dims))
