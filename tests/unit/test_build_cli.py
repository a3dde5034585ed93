"""What ``ofa-build build`` refuses, each in one line and before any work."""

import pytest
from cases import CASES
from ofa_build.cli import main

REFUSED = {
    "a name with a path": (["--name", "../x"], "is no model name"),
    "TensorRT on a CPU": (["--engine", "tensorrt"], "is for --device gpu"),
    "bf16 in ONNX Runtime": (["--engine", "onnxruntime", "--precision", "bf16"], "is built in fp32, not in bf16"),
    "TensorRT where there is none": (["--engine", "tensorrt", "--device", "gpu"], "TensorRT is not installed"),
    "int8 in ONNX Runtime": (["--engine", "onnxruntime", "--precision", "int8"], "is built in fp32, not in int8"),
    "int8 by no pictures": (["--precision", "int8"], "int8 needs --pictures FOLDER"),
    "int8 by a folder without": (["--precision", "int8", "--pictures", "."], "has no picture that can be read"),
    "pictures for fp32": (["--pictures", "."], "--pictures is for int8, not for fp32"),
    "int8 by no folder": (["--precision", "int8", "--pictures", "nowhere"], "nowhere"),
    "fewer than no threads": (["--threads", "-1"], "0 or more"),
    "weights that are others": (["--sha256", "0" * 64], "not to what was asked for"),
    "no such checkpoint": ([], "no-such-folder"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(tmp_path, caplog, flags, words):
    checkpoint = "no-such-folder" if words == "no-such-folder" else str(CASES[0].checkpoint)
    assert main(["build", checkpoint, "--artifacts", str(tmp_path / "artifacts"), *flags]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert words in line
    assert "\n" not in line
    assert not list(tmp_path.glob("artifacts/*/manifest.json"))
