"""Shared by every folder of tests; its being here puts this folder's helpers on the import path."""

import pytest
from cases import CASES
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.repository import Serving
from ofa_serving.local import LocalCaptioner
from serving_process import ServerProcess


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A folder of artifacts, and a function that builds a golden case into it once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def build(case):
        built = folder / case.model_name
        if not built.exists():
            checkpoint = load_checkpoint(str(case.checkpoint))
            build_artifact(checkpoint, case.name, case.model_name, folder, Serving())
        return built

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
