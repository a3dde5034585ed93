"""A runtime on a GPU computes shapes on the host: only a step in which no value waits for one can be captured whole."""

import onnx
import pytest
from cases import CASES

ON_HOST = {"Reshape": {1}, "Expand": {1}, "Slice": {1, 2, 3, 4}, "TopK": {1}, "Split": {1}, "ConstantOfShape": {0}}
"""The inputs of operators that ONNX Runtime's kernels for CUDA take from the host."""


def waiting_for_shapes(graph):
    """Nodes of a graph that compute values of shapes and of what lies on the device."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    shapes, mixed = set(), []
    for node in graph.node:
        names = [name for name in node.input if name]
        taken = [name for place, name in enumerate(node.input) if place not in ON_HOST.get(node.op_type, ())]
        if node.op_type == "Shape" or (set(names) & shapes and set(names) <= shapes | constants):
            shapes |= set(node.output)
        elif set(taken) & shapes:
            mixed.append(node.name)
    return mixed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["cross", "step"])
def test_no_value_waits_for_a_shape(artifacts, precision, name):
    (file,) = (artifacts(CASES[0], precision) / "model_repository").glob(f"*_beam_search/1/{name}.onnx")
    graph = onnx.load(file, load_external_data=False).graph
    assert waiting_for_shapes(graph) == []
    assert "GatherND" not in {node.op_type for node in graph.node}  # its kernel is not safe to capture


def test_a_value_of_a_shape_and_an_input_is_found():
    number = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["n"])
    nodes = [
        onnx.helper.make_node("Shape", ["x"], ["s"], "shape"),
        onnx.helper.make_node("Mul", ["x", "s"], ["y"], "product"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [number], [])
    assert waiting_for_shapes(graph) == ["product"]
