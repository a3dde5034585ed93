"""A server that was given a key takes images through shared memory from clients on its host that know it."""

import pytest
from ofa_client import AccessRefusedError, Captioner
from serving_process import ServerProcess
from small_repository import IMAGE, NAME, build_small_artifact, caption_of

pytestmark = pytest.mark.server

KEY = "the-key-of-this-server"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    work = tmp_path_factory.mktemp("shared_memory")
    build_small_artifact(work / "artifacts")
    with ServerProcess(work / "artifacts", [NAME], work, [f"--shared-memory-key={KEY}"]) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return {"grpc": f"grpc://{server.grpc_url}", "http": server.http_url}[request.param]


def test_the_captions_are_the_same(url):
    with Captioner(url, model=NAME, shared_memory_key=KEY) as captioner:
        assert captioner.caption(IMAGE).text == caption_of(IMAGE)


def test_a_client_without_the_key_is_refused(url):
    refusal = pytest.raises(AccessRefusedError, match="without --shared-memory-key, or with another key")
    with Captioner(url, model=NAME, shared_memory_key=KEY[::-1]) as captioner, refusal:
        captioner.caption(IMAGE)


def test_other_clients_need_none(url):
    with Captioner(url, model=NAME) as captioner:
        assert captioner.caption(IMAGE).text == caption_of(IMAGE)
