"""int8: which numbers are rounded, and that the bundled checkpoint still says what it said."""

import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ofa_build.cli import main
from ofa_build.export.quantization import PROJECTION, quantize_projection
from ofa_serving.local import LocalCaptioner

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "images"


def build_bundled(precision, artifacts):
    flags = ["--engine", "openvino", "--precision", precision, "--name", precision, "--artifacts", str(artifacts)]
    pictures = ["--pictures", str(EXAMPLES)] if precision == "int8" else []
    assert main(["build", str(ROOT / "checkpoints" / "emoji"), *flags, *pictures]) == 0
    return artifacts / precision / "model_repository"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that gives the bundled checkpoint's repository in a precision."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    return cache(partial(build_bundled, artifacts=artifacts))


def test_what_every_convolution_but_the_first_reads_is_rounded(built):
    graph = onnx.load(built("int8") / "int8_encoder" / "1" / "model.onnx").graph
    reads = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    rounded = [node for node in graph.node if reads & set(node.input)]
    first, *others = [node for node in graph.node if node.op_type == "Conv"]
    assert [node for node in rounded if node.op_type != "Add"] == others  # and the residual stream, which they read
    assert all(set(node.input[:2]) <= reads for node in others)
    assert not reads & set(first.input)


def test_a_projection_of_8_bits_is_within_half_a_step_of_the_weights(built, tmp_path):
    path = tmp_path / "step.onnx"
    shutil.copyfile(built("fp32") / "fp32_beam_search" / "1" / "step.onnx", path)
    weights = onnx.numpy_helper.to_array(next(t for t in onnx.load(path).graph.initializer if t.name == PROJECTION))
    quantize_projection(path)
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(f"{PROJECTION}.read", onnx.TensorProto.FLOAT, None))
    read = next(node for node in model.graph.node if node.output[0] == f"{PROJECTION}.read")
    alone = onnx.helper.make_graph(
        [read], "read", [], [model.graph.output[-1]], [t for t in model.graph.initializer if t.name in read.input]
    )
    only = onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
    (again,) = onnxruntime.InferenceSession(only.SerializeToString()).run(None, {})
    steps = np.abs(weights).max(axis=1, keepdims=True) / 127
    assert (np.abs(again - weights) <= steps * 0.501).all()


def test_the_examples_captions_stay(built):
    assert examples(built("int8"), "int8") == examples(built("fp32"), "fp32")


def test_a_large_graphs_weights_stay_in_a_file_beside_it(built, tmp_path, monkeypatch):
    ordinary = built("int8")  # made before the bound is another, if no test has asked for it yet
    monkeypatch.setattr("ofa_build.export.graphs.SINGLE_FILE_BYTES", 2**20)
    repository = build_bundled("int8", tmp_path)
    graphs = [path for path in repository.rglob("*.onnx") if path.name in ("model.onnx", "step.onnx")]
    assert len(graphs) == 2
    for graph in graphs:
        whole = ordinary / graph.relative_to(repository)
        beside = graph.with_name(f"{graph.name}.data")
        assert graph.stat().st_size < whole.stat().st_size / 2
        assert graph.stat().st_size + beside.stat().st_size < 1.1 * whole.stat().st_size  # and none of the old ones
    assert examples(repository, "int8") == examples(ordinary, "int8")


def examples(repository, name):
    with LocalCaptioner(repository, name) as captioner:
        return [text for text, *_ in captioner.captions([path.read_bytes() for path in sorted(EXAMPLES.iterdir())])]
