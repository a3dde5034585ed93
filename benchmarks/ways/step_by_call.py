"""The decoder's graphs as models of Triton's: a call, with the caches in it, for every token.

Any of Triton's backends could run such a decoder; that is what speaks for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
from google.protobuf import text_format
from ofa_serving.contract import Names
from tritonclient.grpc import model_config_pb2 as pb

from loadtest.variants import variant

from ..contenders import Served

NAME = "a call to another model for every token"
MODEL = Path(__file__).parent / "models" / "step_by_call.py"
GRAPHS = ("cross", "step")
TYPES = {"tensor(float)": pb.TYPE_FP32, "tensor(int64)": pb.TYPE_INT64}


def way(artifact: Path, work: Path, concurrency: int) -> Served:
    """The contender, over a copy of the artifact with two models more."""
    variant(artifact, work, move_graphs)
    return Served(NAME, artifact.name, work, concurrency)


def move_graphs(repository: Path, names: Names) -> None:
    """A change of a variant."""
    folder = repository / names.beam_search / "1"
    for graph in GRAPHS:
        name = f"{names.beam_search}_{graph}"
        version = repository / name / "1"
        version.mkdir(parents=True)
        os.link(folder / f"{graph}.onnx", version / "model.onnx")
        (version.parent / "config.pbtxt").write_text(text_format.MessageToString(_config(name, version / "model.onnx")))
    (folder / "model.py").unlink()
    (folder / "model.py").write_bytes(MODEL.read_bytes())


def _config(name: str, graph: Path) -> pb.ModelConfig:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    config = pb.ModelConfig(name=name, backend="onnxruntime")
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    config.parameters["session.intra_op.allow_spinning"].string_value = "0"
    for node in session.get_inputs():
        config.input.add(name=node.name, data_type=TYPES[node.type], dims=_dims(node.shape))
    for node in session.get_outputs():
        config.output.add(name=node.name, data_type=TYPES[node.type], dims=_dims(node.shape))
    return config


def _dims(shape: Sequence[int | str]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]
