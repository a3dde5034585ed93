"""What bfloat16 does to captions, shown on a CPU without it: every tensor is rounded to it and computed on in float32.

OpenVINO multiplies bfloat16, adds up in float32 and rounds what an operator gives; from the last matrix product on it
stays in float32. So do these graphs, but that OpenVINO rounds once where it fuses operators: they lose a little more.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCTS = {"Conv", "Gemm", "MatMul"}


def emulated_bf16(repository: Path, folder: Path) -> Path:
    """A copy of a model repository in float32, for ONNX Runtime, with its graphs so rounded."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(repository, folder)
    for path in folder.glob("*/1/*.onnx"):
        model = onnx.load(path)
        round_tensors(model.graph)
        onnx.save(model, path)
    return folder


def round_tensors(graph: onnx.GraphProto) -> None:
    """Rounds the weights of a graph of float32, and what its operators give up to the last matrix products."""
    floats = {value.name for value in (*graph.value_info, *graph.output) if _is_float(value)}
    rounded = _up_to_products(graph)
    nodes, read = [], set()
    for node in graph.node:
        nodes.append(node)
        if node.output[0] not in rounded:
            continue
        read.update(node.input)
        for place, name in enumerate(node.output):
            if name in floats:
                exact, half = f"{name}.exact", f"{name}.bf16"
                node.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    for tensor in graph.initializer:
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(to_bf16(numpy_helper.to_array(tensor)), tensor.name))
    del graph.node[:]
    graph.node.extend(nodes)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest values of bfloat16, the even one of two, in float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _up_to_products(graph: onnx.GraphProto) -> set[str]:
    """The outputs of every operator that is a matrix product, or that one follows."""
    found: set[str] = set()
    wanted: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in PRODUCTS or wanted.intersection(node.output):
            wanted.update(node.input)
            found.update(node.output)
    return found


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT
