"""A Triton that is installed on the machine, as in NVIDIA's container, instead of the embedded one."""

import sys
from pathlib import Path

import pytest
from ofa_serving.launcher import native
from ofa_serving.launcher.errors import LaunchError


def test_its_models_run_in_this_environment(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tritonserver").touch()
    (tmp_path / "backends/python").mkdir(parents=True)
    found = native.find(tmp_path)
    assert (found.binary, found.backends) == (tmp_path / "bin/tritonserver", tmp_path / "backends")
    assert found.environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)


@pytest.mark.parametrize("present", [(), ("bin/tritonserver",), ("backends/python/model.py",)])
def test_a_folder_without_one_is_refused(tmp_path, present):
    for name in present:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(LaunchError, match="holds no Triton with a Python backend: correct --triton"):
        native.find(tmp_path)
