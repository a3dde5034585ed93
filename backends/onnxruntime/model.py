"""ONNX Runtime as a Python-based backend, for a Triton without the native one.

Triton runs this file for every model whose ``config.pbtxt`` says ``backend: "onnxruntime"``; the graph is
``<version>/model.onnx`` (or ``default_model_filename``). It answers as NVIDIA's native backend does with the same
configuration, and reads the same settings:

* ``parameters``: ``intra_op_thread_count``, ``inter_op_thread_count``, ``execution_mode``, ``enable_mem_arena``,
  ``enable_mem_pattern``, ``memory.enable_memory_arena_shrinkage``, and every ``session.…`` option of ONNX Runtime;
* ``optimization.graph.level``: -1 basic, 1 extended, 2 none; all optimisations without it;
* ``instance_group.kind``: ``KIND_GPU`` needs an ONNX Runtime with CUDA.

A batch that the dynamic batcher gives is one run of the graph. Its tensors cross shared memory between Triton and this
process, where one copy an output is unavoidable (DLPack would not save it); inputs are read where they lie, and copied
only to join several requests.

A configuration that does not fit its graph is refused at start. At run time a failed batch is tried again request by
request, so that only the failing ones fail; they are told no more than an id, which the log has beside the reason.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from ofa_serving.cores import usable_cores

GRAPH_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
"""Triton's data types that both NumPy and ONNX Runtime know, by ONNX Runtime's names; bfloat16 is not among them."""

OPTIMIZATION_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of one model: a session, and the tensors its configuration names."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph and check that the configuration fits it.

        Args:
            args: what Triton says of the instance: the model's configuration as JSON, its folder, version and device.

        Raises:
            ValueError: the configuration asks for what the graph, or this ONNX Runtime, does not have.

        """
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self._batched = config["max_batch_size"] > 0
        file_name = config.get("default_model_filename") or "model.onnx"
        self._session = ort.InferenceSession(
            Path(args["model_repository"]) / args["model_version"] / file_name,
            _session_options(config),
            providers=_providers(args["model_instance_kind"], args["model_instance_device_id"]),
        )
        self._run_options = _run_options(config)
        self._inputs = _matched(config["input"], self._session.get_inputs(), "input", self._batched)
        self._outputs = _matched(config["output"], self._session.get_outputs(), "output", self._batched)
        unconfigured = {node.name for node in self._session.get_inputs()} - set(self._inputs)
        if unconfigured:
            raise ValueError(f"the graph of {self._name} also takes {_listed(unconfigured)}, which its config lacks")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each of Triton's requests, in their order: all with one run if the model batches."""
        if not self._batched and len(requests) > 1:
            return [self._answer([request])[0] for request in requests]
        return self._answer(requests)

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        try:
            return self._run(requests)
        except Exception:
            if len(requests) > 1:
                return [self._answer([request])[0] for request in requests]
            return [self._failure()]

    def _run(self, requests: Sequence[Any]) -> list[Any]:
        feeds = {name: _joined(name, requests) for name in self._inputs}
        wanted = set().union(*(request.requested_output_names() for request in requests))
        names = [name for name in self._outputs if name in wanted]
        results = dict(zip(names, self._session.run(names, feeds, self._run_options), strict=True))
        rows = [_rows(request, self._inputs[0]) for request in requests] if self._batched else []
        parts = {name: _split(name, result, rows) for name, result in results.items()}
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, parts[name][i]) for name in names if name in request.requested_output_names()]
            )
            for i, request in enumerate(requests)
        ]

    def _failure(self) -> Any:
        """Log the exception being handled under a new id, and make the answer that names only the id."""
        error_id = uuid.uuid4().hex[:12]
        pb_utils.Logger.log_error(f"{self._name}: error {error_id}\n{traceback.format_exc()}")
        message = f"INTERNAL: the model could not be run (error {error_id})"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))


def _parameter(config: Mapping[str, Any], key: str, default: str) -> str:
    return config.get("parameters", {}).get(key, {}).get("string_value", default)


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Its own count is of the machine's cores, whatever a container's limit.
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", "0")) or usable_cores()
    options.inter_op_num_threads = int(_parameter(config, "inter_op_thread_count", "0"))
    if _parameter(config, "execution_mode", "0") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _parameter(config, "enable_mem_arena", "1") == "1"
    options.enable_mem_pattern = _parameter(config, "enable_mem_pattern", "1") == "1"
    for key in config.get("parameters", {}):
        if key.startswith("session."):
            options.add_session_config_entry(key, _parameter(config, key, ""))
    optimization = config.get("optimization", {})
    if optimization.get("execution_accelerators"):
        raise ValueError("this ONNX Runtime backend has no execution accelerators; use Triton's native one")
    level = int(optimization.get("graph", {}).get("level", 0))
    options.graph_optimization_level = OPTIMIZATION_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    return options


def _run_options(config: Mapping[str, Any]) -> ort.RunOptions:
    options = ort.RunOptions()
    shrinkage = "memory.enable_memory_arena_shrinkage"
    if arenas := _parameter(config, shrinkage, ""):
        options.add_run_config_entry(shrinkage, arenas)
    return options


def _providers(kind: str, device: str) -> list[Any]:
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ValueError("the model's instance group asks for a GPU, and this ONNX Runtime has no CUDA")
    return [("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]


def _matched(tensors: Iterable[Mapping[str, Any]], nodes: Iterable[Any], what: str, batched: bool) -> list[str]:
    """Return the names of the configuration's tensors, each checked against the graph's node of its name."""
    by_name = {node.name: node for node in nodes}
    names = []
    for tensor in tensors:
        name, data_type = tensor["name"], tensor["data_type"]
        if name not in by_name:
            raise ValueError(f"unexpected {what} '{name}': the graph has {_listed(by_name)}")
        node = by_name[name]
        if GRAPH_TYPES.get(data_type) != node.type:
            raise ValueError(f"{what} '{name}' is {data_type} in the config and {node.type} in the graph")
        dims = [int(dim) for dim in tensor.get("reshape", {}).get("shape", tensor["dims"])]
        shape = ([-1] if batched else []) + dims
        if not _fits(shape, node.shape):
            raise ValueError(f"{what} '{name}' has shape {shape} in the config and {node.shape} in the graph")
        names.append(name)
    return names


def _fits(shape: Sequence[int], graph_shape: Sequence[int | str | None]) -> bool:
    """Whether the configured shape is what the graph takes; a symbolic dimension of the graph takes any size."""
    if len(shape) != len(graph_shape):
        return False
    pairs = zip(shape, graph_shape, strict=True)
    return all(dim == of_graph or not isinstance(of_graph, int) for dim, of_graph in pairs)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _joined(name: str, requests: Sequence[Any]) -> np.ndarray:
    """Return the requests' inputs as one array: the only one as it lies, several joined along the batch."""
    arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if array.dtype != np.object_:
        return array
    return np.array([text.decode() for text in array.flat], dtype=np.object_).reshape(array.shape)


def _rows(request: Any, name: str) -> int:
    return pb_utils.get_input_tensor_by_name(request, name).shape()[0]


def _split(name: str, result: np.ndarray, rows: Sequence[int]) -> list[np.ndarray]:
    """Return each request's rows of a batch's result (as views), or the whole result if the model does not batch."""
    if result.dtype == np.object_:
        result = np.array([text.encode() for text in result.flat], dtype=np.object_).reshape(result.shape)
    if not rows:
        return [result]
    if result.ndim == 0 or result.shape[0] != sum(rows):
        raise ValueError(f"output '{name}' has shape {list(result.shape)} for a batch of {sum(rows)}")
    return np.split(result, np.cumsum(rows)[:-1])
