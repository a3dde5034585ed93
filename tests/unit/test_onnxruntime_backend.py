"""The ONNX Runtime backend refuses, when a model loads, a configuration that its graph does not fit."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from small_repository import CONFIGS, encoder_graph
from tritonclient.grpc.model_config_pb2 import ModelConfig

BACKEND = Path(__file__).parents[2] / "backends/onnxruntime/model.py"


@pytest.fixture
def initialize(tmp_path, monkeypatch):
    """Load the tiny encoder with a changed configuration, as Triton would: the config as JSON, the folder by path."""
    # What only a Triton process can import; nothing of it is used before the first request.
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", BACKEND)
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/model.onnx").write_bytes(encoder_graph().SerializeToString())

    def load(*replacements, kind="CPU"):
        text = CONFIGS["tiny_encoder"]
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        config = json_format.MessageToJson(
            text_format.Parse(text, ModelConfig()),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        backend.TritonPythonModel().initialize(
            {
                "model_config": config,
                "model_name": "tiny_encoder",
                "model_repository": str(tmp_path),
                "model_version": "1",
                "model_instance_kind": kind,
                "model_instance_device_id": "0",
            }
        )

    return load


def test_a_configuration_that_fits_is_accepted(initialize):
    initialize()


def test_settings_of_the_native_backend_are_accepted(initialize):
    settings = {
        "inter_op_thread_count": "1",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "memory.enable_memory_arena_shrinkage": "cpu:0",
        "session.intra_op.allow_spinning": "0",
    }
    lines = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in settings.items())
    initialize(("dynamic_batching", "optimization { graph { level: 1 } }\n" + lines + "dynamic_batching"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name: "pixels" data_type', 'name: "image" data_type', "unexpected input 'image': the graph has 'pixels'"),
        ('name: "hidden"', 'name: "states"', "unexpected output 'states': the graph has 'batch', 'hidden'"),
        ("TYPE_FP32", "TYPE_FP16", r"output 'hidden' is TYPE_FP16 in the config and tensor\(float\) in the graph"),
        ("TYPE_FP32", "TYPE_BF16", r"output 'hidden' is TYPE_BF16 in the config"),
        ("dims: [6]", "dims: [7]", r"output 'hidden' has shape \[-1, 7\] in the config and \['b', 6\] in the graph"),
        ("dims: [6]", "dims: [-1]", r"output 'hidden' has shape \[-1, -1\] in the config"),
        ("dims: [6]", "dims: [6, 1]", r"output 'hidden' has shape \[-1, 6, 1\] in the config"),
        ("max_batch_size: 8", "", r"input 'pixels' has shape \[4, 4, 3\] in the config"),
        (
            "instance_group",
            'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } } instance_group',
            "no execution accelerators",
        ),
        (
            'input { name: "pixels" data_type: TYPE_UINT8 dims: [4, 4, 3] }',
            "",
            "also takes 'pixels', which its config lacks",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(initialize, old, new, reason):
    with pytest.raises(ValueError, match=reason):
        initialize((old, new))


def test_a_gpu_is_refused_without_cuda(initialize):
    with pytest.raises(ValueError, match="asks for a GPU, and this ONNX Runtime has no CUDA"):
        initialize(kind="GPU")
