"""The graphs are checked, and compile under TensorRT's parser and builder, which need no GPU in TensorRT for RTX."""

import onnx
import pytest
import tensorrt_rtx as trt
from cases import CASES
from ofa_build.plans import profile_of

LOGGER = trt.Logger(trt.Logger.ERROR)


@pytest.fixture(params=["fp32", "fp16"], scope="module")
def repository(request, artifacts):
    return artifacts(CASES[0], request.param) / "model_repository"


@pytest.fixture(params=["encoder/1/model", "beam_search/1/cross", "beam_search/1/step"])
def graph(request, repository):
    (file,) = repository.glob(f"*_{request.param}.onnx")
    return file


def test_the_graph_is_valid(graph):
    onnx.checker.check_model(graph, full_check=True)


def test_the_graph_has_no_batch_norm_left(graph):
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(graph).graph.node}


def test_the_graph_compiles_under_tensorrt(graph):
    builder = trt.Builder(LOGGER)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOGGER)
    assert parser.parse_from_file(str(graph)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.add_optimization_profile(profile_of(builder, network, max_captions=16))
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 0
