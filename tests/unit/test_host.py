"""What is read of the machine: its GPU, and versions of packages."""

import pytest
from ofa_serving.host import Gpu, installed_version, visible_gpu


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put an ``nvidia-smi`` on the path that runs these shell lines."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(script):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    return install


def test_the_first_gpu_is_read_by_name_and_capability(driver):
    driver("printf 'NVIDIA H200, 9.0\\nNVIDIA L4, 8.9\\n'")
    assert visible_gpu() == Gpu("NVIDIA H200", "9.0")


@pytest.mark.parametrize("script", ["echo 'No devices were found'; exit 6", "true"])
def test_a_driver_that_shows_none_means_none(driver, script):
    driver(script)
    assert visible_gpu() is None


def test_no_driver_means_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpu() is None


def test_an_absent_package_has_no_version():
    assert installed_version("no-such-package-of-ours") is None
    assert installed_version("numpy") == "1.26.4"
