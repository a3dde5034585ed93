"""The configurations, held against those in ``model_repository/``, which are what the bundled checkpoint gets."""

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


def test_tensorrt_on_a_gpu_changes_the_engines_only():
    cpu, gpu = configs(), configs(serving=Serving(engine="tensorrt", gpu=True))
    changed = {name for name in cpu if cpu[name] != gpu[name]}
    assert changed == {"ofa_encoder", "ofa_beam_search"}
    assert gpu["ofa_encoder"].backend == "tensorrt"
    assert gpu["ofa_encoder"].instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU


def test_the_stages_tensors_fit_each_other():
    of = configs()
    given = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for config in of.values() for tensor in config.output}
    for model in ("ofa_encoder", "ofa_beam_search"):
        for tensor in of[model].input:
            assert given[tensor.name] == (tensor.data_type, tuple(tensor.dims))
