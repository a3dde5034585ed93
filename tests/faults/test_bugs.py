"""A bug in a model is the server's error: a generic sentence with an id, under which the log has what happened."""

import re

import pytest
from altered import altered
from cases import CASES
from processes import descendants
from serving_process import ServerProcess, wait_until
from tritonclient.utils import InferenceServerException
from wire import over_grpc, over_http

MODEL = CASES[0].model_name
IMAGE = CASES[0].images[0]
BROKEN = b"this image meets the bug"

BUG = """
def broken(original):
    def call(first, *rest):
        if is_bad(first):
            raise ZeroDivisionError("a secret of /etc/secrets")
        return original(first, *rest)
    return call
"""

PREPROCESS = (
    BUG
    + f"""
import ofa_serving.models.preprocess as module
is_bad = lambda image: image == {BROKEN!r}
module.load_pixels = broken(module.load_pixels)
"""
)

SEARCH = (
    BUG
    + """
import ofa_serving.models.beam_search as module
is_bad = lambda scheduler: True
module.Scheduler.submit = broken(module.Scheduler.submit)
"""
)

ENTRY = (
    BUG
    + f"""
import ofa_serving.models.entry as module
is_bad = lambda request: module.pb_utils.get_input_tensor_by_name(request, "image").as_numpy()[0, 0] == {BROKEN!r}
module.Call.read = staticmethod(broken(module.Call.read))
"""
)


@pytest.fixture(scope="module")
def buggy(artifacts, tmp_path_factory):
    work = tmp_path_factory.mktemp("buggy")
    altered(artifacts(CASES[0]), work / "artifacts", code={f"{MODEL}_preprocess": PREPROCESS})
    with ServerProcess(work / "artifacts", [MODEL], work) as running:
        yield running


def told(server, ask, image):
    with pytest.raises(InferenceServerException) as refused:
        ask(server, MODEL, [image])
    assert refused.value.status() in {"500", "StatusCode.INTERNAL"}
    found = re.fullmatch(
        r"INTERNAL: the request failed inside the server \(error ([0-9a-f]{12})\)", refused.value.message()
    )
    assert found, refused.value.message()
    wait_until(lambda: f"error {found[1]}" in server.log())
    assert "ZeroDivisionError: a secret of /etc/secrets" in server.log()


@pytest.mark.parametrize("ask", [over_grpc, over_http], ids=["grpc", "http"])
def test_a_bug_in_a_model_is_told_by_its_id_alone(buggy, ask):
    before = descendants(buggy.pid)
    told(buggy, ask, BROKEN)
    assert ask(buggy, MODEL, [IMAGE])["caption"][0, 0].decode() == CASES[0].record["captions"][0][0]
    assert descendants(buggy.pid) == before


def test_a_bug_in_the_public_model_is_told_the_same_way(artifacts, tmp_path):
    altered(artifacts(CASES[0]), tmp_path / "artifacts", code={MODEL: ENTRY})
    with ServerProcess(tmp_path / "artifacts", [MODEL], tmp_path) as server:
        told(server, over_grpc, BROKEN)
        assert over_grpc(server, MODEL, [IMAGE])["caption"].size == 1


def test_a_server_whose_every_caption_meets_a_bug_is_never_ready(artifacts, tmp_path):
    altered(artifacts(CASES[0]), tmp_path / "artifacts", code={f"{MODEL}_beam_search": SEARCH})
    server = ServerProcess(tmp_path / "artifacts", [MODEL], tmp_path)
    server.start()
    assert not server.wait_until_ready()
    assert server.wait() == 1
    assert "could not caption its known image: INTERNAL: the request failed inside the server" in server.last_line()
