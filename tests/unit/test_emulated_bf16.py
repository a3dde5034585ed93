"""Graphs that round as bfloat16 does, for measuring without a CPU that has it."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, load, numpy_helper, save
from onnx.shape_inference import infer_shapes

from benchmarks.emulated import emulated_bf16, round_tensors, to_bf16

WEIGHTS = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)


def graph():
    """Two products, and a softmax after the last of them."""
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("given", "found")]
    nodes = [
        helper.make_node("MatMul", ["given", "weights"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("MatMul", ["positive", "weights"], ["last"]),
        helper.make_node("Softmax", ["last"], ["found"]),
    ]
    made = helper.make_graph(nodes, "graph", floats[:1], floats[1:], [numpy_helper.from_array(WEIGHTS, "weights")])
    return infer_shapes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def test_numbers_are_rounded_as_torch_rounds_them():
    values = np.concatenate([np.random.default_rng(2).normal(size=1000), [1 + 2**-8, 1 + 3 * 2**-8, 0, -0.0, np.inf]])
    values = values.astype(np.float32)
    np.testing.assert_array_equal(to_bf16(values), torch.from_numpy(values).bfloat16().float())


def test_everything_up_to_the_last_product_is_rounded():
    model, given = graph(), np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    round_tensors(model.graph)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"given": given})
    weights = to_bf16(WEIGHTS)
    last = to_bf16(np.maximum(to_bf16(given @ weights), 0) @ weights)
    wanted = torch.softmax(torch.from_numpy(last), -1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert np.abs(found - to_bf16(found)).max() > 1e-5  # softmax itself is not


def test_a_repository_s_copy_is_rounded_and_it_is_not(tmp_path):
    folder = tmp_path / "repository" / "encoder" / "1"
    folder.mkdir(parents=True)
    save(graph(), folder / "model.onnx")
    copy = emulated_bf16(tmp_path / "repository", tmp_path / "copy")
    operators = [
        [node.op_type for node in load(top / "encoder/1/model.onnx").graph.node] for top in (folder.parents[1], copy)
    ]
    assert [names.count("Cast") for names in operators] == [0, 6]
    with pytest.raises(FileNotFoundError):
        emulated_bf16(tmp_path / "none", tmp_path / "copy")
