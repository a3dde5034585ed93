"""Why a server ended, in one sentence, from what Triton really logs."""

import pytest
from ofa_serving.launcher.failures import explain

NOT_LOADED = (
    "2025-01-01T00:00:00Z E 1 model_lifecycle.cc:642] \"failed to load 'ofa_encoder' version 1: {}: {}\\n\\nAt:\\n"
    '  /srv/backends/onnxruntime/model.py(58): initialize\\n"'
)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            NOT_LOADED.format(
                "Internal", "InvalidProtobuf: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model failed"
            ),
            "model 'ofa_encoder' has a damaged engine: build it again",
        ),
        (
            NOT_LOADED.format("Internal", "FileNotFoundError: [Errno 2] No such file or directory: '/srv/1/vocab.txt'"),
            "model 'ofa_encoder' lacks vocab.txt: build it again",
        ),
        (
            NOT_LOADED.format("Internal", "ModuleNotFoundError: No module named 'PIL'"),
            "the server's environment lacks the package PIL",
        ),
        (
            NOT_LOADED.format("Internal", "ValueError: input 'pixels' is TYPE_FP32"),
            "model 'ofa_encoder' did not load: ValueError: input 'pixels' is TYPE_FP32",
        ),
        (
            NOT_LOADED.format("Invalid argument", "unable to find backend library for backend 'x'"),
            "model 'ofa_encoder' did not load: unable to find backend library for backend 'x'",
        ),
        (
            "/opt/tritonserver: error while loading shared libraries: libre2.so.9: cannot open shared object file",
            "the system lacks the library libre2.so.9",
        ),
        (
            "E 1 main.cc:1] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use \"",
            "127.0.0.1:8000 was taken while the models loaded",
        ),
        (
            "E 1 x] terminate called after throwing an instance of 'std::bad_alloc'",
            "there is too little memory for the models",
        ),
    ],
)
def test_a_known_failure_has_its_sentence(line, sentence):
    log = ["I 1 model_lifecycle.cc:472] loading: ofa_encoder:1", line, "error: creating server: Internal"]
    assert explain(1, log) == sentence


@pytest.mark.parametrize(
    ("exit_code", "sentence"),
    [
        (1, "the server ended by itself (exit code 1)"),
        (0, "the server ended by itself (exit code 0)"),
        (-11, "the server crashed (SIGSEGV), perhaps for want of memory"),
        (-9, "the server was killed, perhaps for want of memory"),
    ],
)
def test_without_a_known_line_the_exit_code_speaks(exit_code, sentence):
    assert explain(exit_code, ["I 1 http_server.cc:4713] Started HTTPService"]) == sentence
