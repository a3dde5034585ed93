"""The embedded server is laid out once for an environment, and refused for one it would not work in."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from ofa_serving.launcher import embedded
from ofa_serving.launcher.embedded import prepare
from ofa_serving.launcher.errors import LaunchError


def run(*command, **options):
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def test_the_server_finds_its_libraries_and_starts(tmp_path):
    installation = prepare(tmp_path)
    answer = run(installation.binary, "--help", env=installation.environment)
    assert "--model-repository" in answer.stdout + answer.stderr


def test_both_backends_and_this_package_are_there(tmp_path):
    backends = prepare(tmp_path).backends
    assert (backends / "python/libtriton_python.so").is_file()
    assert os.access(backends / "python/triton_python_backend_stub", os.X_OK)
    assert (backends / "python/ofa_serving/contract.py").is_file()
    assert (backends / "onnxruntime/model.py").is_file()


def test_the_models_python_is_this_one(tmp_path):
    path = prepare(tmp_path).environment["PATH"].split(":")[0]
    answer = run(f"{path}/python3", "-c", "import sys; print(sys.prefix)")
    assert answer.stdout.strip() == sys.prefix


def test_launchers_share_one_layout_even_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = {installation.backends for installation in pool.map(prepare, [tmp_path] * 16)}
    assert len(folders) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_numpy_2_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "installed_version", lambda package: "2.4.0")
    with pytest.raises(LaunchError, match=r"with numpy 2\.4\.0 Triton's Python models return zeros"):
        prepare(tmp_path)


def test_a_missing_wheel_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"the embedded Triton is not installed: pip install 'ofa-triton\["):
        prepare(tmp_path)


def test_a_python_without_its_model_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "sys", SimpleNamespace(version_info=SimpleNamespace(major=3, minor=99)))
    with pytest.raises(LaunchError, match=r"runs models with Python .*3\.11.*, this is 3\.99"):
        prepare(tmp_path)


def test_a_missing_package_is_told_by_the_command(tmp_path):
    missing = "import sys; sys.modules['tritonclient'] = None"
    serve = "from ofa_serving.launcher.cli import main; sys.exit(main([]))"
    answer = run(sys.executable, "-c", f"{missing}; {serve}", cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.endswith(
        "ERROR ofa-serve: the package tritonclient is not installed: pip install 'ofa-triton[serving,embedded]'\n"
    )
