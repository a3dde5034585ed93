"""A checkpoint of three tiny models, made by hand: what the server's tests serve without training or exporting.

It has the product's shape: an ensemble over a Python preprocessor, an ONNX graph behind the ``onnxruntime`` backend,
and a Python model that answers each request from a thread of its own. The "caption" is a sum over the image's bytes.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from ofa_serving.host import installed_version
from ofa_serving.manifest import FILE_NAME, CheckpointRecord, FileRecord, Manifest
from onnx import TensorProto, helper, numpy_helper

NAME = "tiny_caption"
IMAGE = b"not a picture, but this repository does not mind"
WEIGHT = np.arange(18, dtype=np.float32).reshape(3, 6) / 7

PREPROCESS = '''
"""Make pixels of any bytes: the first 48 of them, as a 4x4 picture."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        if any(image == b"" for image in images):
            error = pb_utils.TritonError("EMPTY_IMAGE: no bytes", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        pixels = [np.frombuffer(image[:48].ljust(48, b"\\0"), np.uint8).reshape(4, 4, 3) for image in images]
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixels", np.stack(pixels))])
'''

SEARCH = '''
"""Name the features' sum, after as long as the request's parameter ``sleep`` asks for; it makes the file ``begun``."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from ofa_serving.contract import Tensor


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request, request.get_response_sender())).start()

    def answer(self, request, sender):
        parameters = json.loads(request.parameters())
        if "begun" in parameters:
            Path(parameters["begun"]).touch()
        time.sleep(float(parameters.get("sleep", 0)))
        sums = pb_utils.get_input_tensor_by_name(request, "hidden").as_numpy().sum(axis=1, keepdims=True)
        captions = np.array([[f"sum {value:.2f}".encode()] for value in sums[:, 0]], dtype=np.object_)
        outputs = {Tensor.CAPTION: captions, Tensor.SCORE: sums}
        wanted = request.requested_output_names()
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
        response = pb_utils.InferenceResponse(tensors)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

ENTRY = '''
"""Call the stages in turn, as the product's public model does; ``wait`` is the seconds between them.

With ``held``, it goes on from the first only once there is a file of that name.
"""

import json
import threading
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

from ofa_serving.admission import Admission
from ofa_serving.contract import CaptionError
from ofa_serving.draining import IN_FLIGHT_METRIC
from ofa_serving.models.triton import Gauge


class TritonPythonModel:
    def initialize(self, args):
        gauge = Gauge(IN_FLIGHT_METRIC, "Requests that are being answered", args["model_name"])
        self.admission = Admission(max_images=2, changed=lambda requests, _images: gauge.set(requests))

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.admission.enter()
            except CaptionError as error:
                refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)
                self.send(sender, pb_utils.InferenceResponse(error=refusal))
            else:
                threading.Thread(target=self.answer, args=(request, sender)).start()

    def answer(self, request, sender):
        tensors = request.inputs()
        for model, output in (("preprocess", "pixels"), ("encoder", "hidden"), ("search", "caption")):
            call = pb_utils.InferenceRequest(
                model_name=f"tiny_{model}", inputs=tensors, requested_output_names=[output], parameters={}
            )
            response = call.exec()
            if response.has_error():
                response = pb_utils.InferenceResponse(error=response.error())
                break
            tensors = response.output_tensors()
            parameters = json.loads(request.parameters())
            while "held" in parameters and not Path(parameters["held"]).exists():
                time.sleep(0.02)
            time.sleep(float(parameters.get("wait", 0)))
        else:
            response = pb_utils.InferenceResponse(tensors)
        self.send(sender, response)
        self.admission.leave()

    def send(self, sender, response):
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

ENTRY_CONFIG = """
    backend: "python"
    max_batch_size: 8
    input { name: "image" data_type: TYPE_STRING dims: [1] }
    output { name: "caption" data_type: TYPE_STRING dims: [-1] }
    instance_group { kind: KIND_CPU }
    parameters { key: "max_in_flight" value { string_value: "64" } }
"""

CONFIGS = {
    "tiny_preprocess": """
        backend: "python"
        max_batch_size: 8
        input { name: "image" data_type: TYPE_STRING dims: [1] }
        output { name: "pixels" data_type: TYPE_UINT8 dims: [4, 4, 3] }
        instance_group { kind: KIND_CPU }
    """,
    "tiny_encoder": """
        backend: "onnxruntime"
        max_batch_size: 8
        input { name: "pixels" data_type: TYPE_UINT8 dims: [4, 4, 3] }
        output { name: "hidden" data_type: TYPE_FP32 dims: [6] }
        output { name: "batch" data_type: TYPE_INT64 dims: [1] }
        dynamic_batching { max_queue_delay_microseconds: 100000 preferred_batch_size: 8 }
        instance_group { kind: KIND_CPU }
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        model_warmup {
          name: "zeros"
          batch_size: 1
          inputs { key: "pixels" value { data_type: TYPE_UINT8 dims: [4, 4, 3] zero_data: true } }
        }
    """,
    "tiny_search": """
        backend: "python"
        max_batch_size: 8
        input { name: "hidden" data_type: TYPE_FP32 dims: [6] }
        output { name: "caption" data_type: TYPE_STRING dims: [1] }
        output { name: "score" data_type: TYPE_FP32 dims: [1] }
        instance_group { kind: KIND_CPU }
    """,
    "tiny_caption": """
        platform: "ensemble"
        max_batch_size: 8
        input { name: "image" data_type: TYPE_STRING dims: [1] }
        output { name: "caption" data_type: TYPE_STRING dims: [1] }
        output { name: "score" data_type: TYPE_FP32 dims: [1] }
        ensemble_scheduling {
          step {
            model_name: "tiny_preprocess" model_version: -1
            input_map { key: "image" value: "image" }
            output_map { key: "pixels" value: "pixels" }
          }
          step {
            model_name: "tiny_encoder" model_version: -1
            input_map { key: "pixels" value: "pixels" }
            output_map { key: "hidden" value: "hidden" }
          }
          step {
            model_name: "tiny_search" model_version: -1
            input_map { key: "hidden" value: "hidden" }
            output_map { key: "caption" value: "caption" }
            output_map { key: "score" value: "score" }
          }
        }
    """,
}


def caption_of(image: bytes) -> str:
    """What the tiny models say of ``image``, computed without them."""
    pixels = np.frombuffer(image[:48].ljust(48, b"\0"), np.uint8).reshape(16, 3)
    return f"sum {(pixels.astype(np.float32).mean(axis=0) @ WEIGHT).sum():.2f}"


def encoder_graph() -> onnx.ModelProto:
    """``pixels`` UINT8 [b,4,4,3] to ``hidden`` FP32 [b,6] and ``batch`` INT64 [b,1], the batch it ran in."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "sides"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["hidden"]),
        helper.make_node("Shape", ["pixels"], ["size"], end=1),
        helper.make_node("Concat", ["size", "one"], ["column"], axis=0),
        helper.make_node("Expand", ["size", "column"], ["batch"]),
    ]
    return graph_of(
        nodes,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", 4, 4, 3])],
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["b", 6]),
            helper.make_tensor_value_info("batch", TensorProto.INT64, ["b", 1]),
        ],
        {"weight": WEIGHT, "sides": np.array([1, 2]), "one": np.array([1])},
    )


def graph_of(nodes, inputs, outputs, constants) -> onnx.ModelProto:
    """Make a checked model of an ONNX graph's parts."""
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def add_model(repository: Path, name: str, config: str, file_name: str = "", content: bytes = b"") -> None:
    """Add a model to ``repository``; an ensemble has no file."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    if file_name:
        (version / file_name).write_bytes(content)


def build_small_artifact(artifacts: Path, name: str = NAME) -> Path:
    """Build the tiny checkpoint under ``artifacts`` as the builder would, and return its folder."""
    folder = artifacts / name
    files = {
        "tiny_preprocess": ("model.py", PREPROCESS.encode()),
        "tiny_encoder": ("model.onnx", encoder_graph().SerializeToString()),
        "tiny_search": ("model.py", SEARCH.encode()),
        "tiny_caption": (),
    }
    prefix = name.removesuffix("caption")
    for model, file in files.items():
        config = CONFIGS[model].replace("tiny_", prefix)
        add_model(folder / "model_repository", model.replace("tiny_", prefix), config, *file)
    canary = folder / "canary"
    canary.mkdir()
    (canary / "image").write_bytes(IMAGE)
    (canary / "canary.json").write_text(json.dumps({"captions": [caption_of(IMAGE)]}))
    sign(folder)
    return folder


def replace_ensemble(folder: Path) -> None:
    """Make the public model one that calls its stages itself."""
    (folder / "model_repository" / NAME / "config.pbtxt").write_text(ENTRY_CONFIG)
    (folder / "model_repository" / NAME / "1/model.py").write_text(ENTRY)


def sign(folder: Path) -> None:
    """Write the manifest of what ``folder`` now holds."""
    engines = sorted((folder / "model_repository").glob("*/1/model.onnx"))
    manifest = Manifest(
        name=folder.name,
        checkpoint=CheckpointRecord(name="by hand", format="modelscope", sha256="0" * 64),
        language="en",
        sizes={"image_size": 4, "d_model": 6},
        engine="onnxruntime",
        precision="fp32",
        device="cpu",
        gpu=None,
        versions={"onnxruntime": installed_version("onnxruntime")},
        files=tuple(FileRecord.of(folder, engine) for engine in engines),
        created="2025-01-01T00:00:00Z",
    )
    manifest.write(folder / FILE_NAME)
