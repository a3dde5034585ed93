"""Shared by every folder of tests; its being here puts this folder's helpers on the import path."""

import pytest
from cases import CASES
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.repository import Serving
from ofa_serving.host import visible_gpu
from ofa_serving.local import LocalCaptioner
from serving_process import ServerProcess


def pytest_collection_modifyitems(items):
    """Skips what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and visible_gpu() is None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and this machine shows none"))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A folder of artifacts, and a function that builds a golden case into it once, for the CPU.

    In float16 it is built as for a GPU, to run on the host.
    """
    folder = tmp_path_factory.mktemp("artifacts")

    def build(case, precision="fp32"):
        serving = Serving() if precision == "fp32" else Serving.on("host", "onnxruntime", precision)
        name = case.model_name if precision == "fp32" else f"{case.model_name}_{precision}"
        if not (folder / name).exists():
            build_artifact(load_checkpoint(str(case.checkpoint)), case.name, name, folder, serving)
        return folder / name

    build.folder = folder
    return build


@pytest.fixture(scope="session")
def local(artifacts):
    """A function that gives a golden case's pipeline without Triton."""
    opened = {}

    def open_case(case):
        if case.name not in opened:
            repository = artifacts(case) / "model_repository"
            opened[case.name] = LocalCaptioner(repository, case.model_name, threads=2)
        return opened[case.name]

    yield open_case
    for captioner in opened.values():
        captioner.close()


@pytest.fixture(scope="session")
def server(artifacts, tmp_path_factory):
    """One running server of all golden checkpoints. It tries its known images once, so that tests can count theirs."""
    for case in CASES:
        artifacts(case)
    names = [case.model_name for case in CASES]
    once = [f"--canary-interval={24 * 3600}"]
    with ServerProcess(artifacts.folder, names, tmp_path_factory.mktemp("server"), once) as process:
        yield process
