"""The client stands alone: tritonclient and numpy are all it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"

LOADED = """
import sys
from ofa_client import Captioner
Captioner("grpc://127.0.0.1:1").close()
Captioner("http://127.0.0.1:1").close()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def loaded():
    output = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, encoding="utf-8", check=True).stdout
    return set(output.split())


def test_the_client_loads_no_server_no_torch_and_no_pillow(loaded):
    assert {"ofa_client", "tritonclient", "numpy"} <= loaded
    assert not loaded & {"ofa_serving", "ofa_build", "torch", "onnxruntime", "PIL"}


def test_type_checkers_are_told_of_its_types():
    assert (CLIENT / "ofa_client/py.typed").is_file()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_metadata_asks_for_no_more():
    import tomllib

    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert [text.split(">")[0] for text in project["dependencies"]] == ["tritonclient[grpc,http]", "numpy"]
    assert project["scripts"] == {"ofa-caption": "ofa_client.cli:main"}
