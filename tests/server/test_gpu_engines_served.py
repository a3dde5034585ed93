"""What is built for a GPU, served: on the host where there is none, with float16 between the stages all the same."""

import pytest
from cases import CASES
from ofa_serving.local import LocalCaptioner
from serving_process import ServerProcess
from wire import over_grpc

ONCE = (f"--canary-interval={24 * 3600}",)


@pytest.fixture(scope="module")
def name(artifacts):
    return artifacts(CASES[0], "fp16").name


@pytest.fixture(scope="module")
def served(artifacts, name, tmp_path_factory):
    with ServerProcess(artifacts.folder, [name], tmp_path_factory.mktemp("server"), ONCE) as process:
        yield process


def test_the_captions_are_those_of_the_engines_alone(served, artifacts, name):
    images = CASES[0].images
    with LocalCaptioner(artifacts.folder / name / "model_repository", name) as captioner:
        wanted = captioner.captions(images)
    answer = over_grpc(served, name, images, outputs=["caption"])
    assert [[text.decode() for text in captions] for captions in answer["caption"]] == wanted


def test_what_the_server_refuses_is_told_as_ever(served, name):
    with pytest.raises(Exception, match="EMPTY_IMAGE: "):
        over_grpc(served, name, [b""])
