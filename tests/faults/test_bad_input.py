"""Bad input is the client's error, told by its code over both protocols; the next request works and nothing died."""

import json
import re
import urllib.error
import urllib.request
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from bad_images import ACCEPTED, PHOTO, REFUSED
from cases import CASES
from ofa_serving.images import load_pixels
from processes import descendants, shared_memory_bytes
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import InferenceServerException
from wire import over_curl, over_grpc, over_http

MODEL = CASES[0].model_name
SECRETS = re.compile(r"/\w+/|Traceback|\.py\b|line \d+|shm|pb_stub")
"""Paths, traces and internal names, which no message may show."""

SPARE = 2**24
"""Bytes by which a region may have grown for the odd image; none of those here takes as much."""

PROTOCOLS = {"grpc": over_grpc, "http": over_http}
each_protocol = pytest.mark.parametrize("ask", PROTOCOLS.values(), ids=PROTOCOLS)


@pytest.fixture(autouse=True)
def unharmed(server):
    """After each fault the same server, with the same processes and no more shared memory, still captions."""
    before, memory = descendants(server.pid), shared_memory_bytes(server)
    yield
    assert over_grpc(server, MODEL, [CASES[0].images[0]])["caption"][0, 0].decode() == CASES[0].record["captions"][0][0]
    assert descendants(server.pid) == before
    assert shared_memory_bytes(server) < memory + SPARE


@each_protocol
@pytest.mark.parametrize(("image", "code"), REFUSED.values(), ids=REFUSED)
def test_bad_images(server, ask, image, code):
    refused(code, ask, server, MODEL, [image])


@each_protocol
@pytest.mark.parametrize("image", ACCEPTED.values(), ids=ACCEPTED)
def test_odd_images_are_captioned_as_what_they_show(server, local, ask, image):
    answer = ask(server, MODEL, [image], num_captions=2)
    captioner = local(CASES[0])
    hidden = captioner.encode(load_pixels(image, 128)[None])
    (result,) = captioner.search(hidden, replace(captioner.defaults, num_captions=2))
    found = [answer["tokens"][0, rank, : len(h.tokens)].tolist() for rank, h in enumerate(result.hypotheses[:2])]
    assert found == [h.tokens.tolist() for h in result.hypotheses[:2]]


BAD_PARAMETERS = {
    "no beam": {"beam_size": 0},
    "a million beams": {"beam_size": 10**6},
    "half a beam": {"beam_size": "2.5"},
    "more captions than beams": {"beam_size": 2, "num_captions": 3},
    "too long": {"max_length": 129},
    "longer at least than at most": {"max_length": 4, "min_length": 5},
    "not a number": {"length_penalty": "nan"},
    "infinite": {"temperature": "inf"},
    "frozen": {"temperature": 0},
    "negative": {"unk_penalty": "-1"},
    "a word": {"no_repeat_ngram_size": "three"},
    "true": {"beam_size": True},
    "unknown": {"beams": 3},
}


@each_protocol
@pytest.mark.parametrize("parameters", BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_bad_parameters_are_named(server, ask, parameters):
    message = refused("INVALID_PARAMETER", ask, server, MODEL, [PHOTO], **parameters)
    assert any(name in message for name in parameters)


@pytest.mark.parametrize("text", ["id", "parameters"])
def test_bytes_that_are_no_text(server, text):
    """Triton's JSON parser takes them, and Python's strings do not."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]}
    fields = {"id": "?", "parameters": {"length_penalty": "?"}}
    body = json.dumps({text: fields[text], "inputs": [tensor]}).encode().replace(b"?", b"\xc7")
    request = urllib.request.Request(f"{server.http_url}/v2/models/{MODEL}/infer", body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    told = json.loads(caught.value.read())["error"]
    assert (caught.value.code, told.partition(":")[0]) in {(400, "INVALID_PARAMETER"), (400, "UNSUPPORTED_FORMAT")}


@each_protocol
def test_one_bad_image_of_a_batch_is_counted_out(server, ask):
    message = refused("UNSUPPORTED_FORMAT", ask, server, MODEL, [PHOTO, b"not an image", PHOTO])
    assert "image 2 of 3" in message


@each_protocol
def test_an_unknown_model(server, ask):
    error = failure(ask, server, "no_such_model", [PHOTO])
    assert error.status() in {"404", "StatusCode.NOT_FOUND"}


@pytest.mark.parametrize("batch", [0, -(2**63)])
def test_a_batch_of_no_images(server, batch):
    """Triton lets both through: the second is none in 32 bits."""
    request = ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="BYTES", shape=[batch, 1])
    request.raw_input_contents.append(len(PHOTO).to_bytes(4, "little") + PHOTO)
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(grpc.RpcError, match="EMPTY_IMAGE: the request has no image"),
    ):
        client._client_stub.ModelInfer(request)


WRONG_TENSORS = {
    "type": ("image", [1, 1], "INT32"),
    "name": ("picture", [1, 1], "BYTES"),
    "shape": ("image", [1, 2], "BYTES"),
    "rank": ("image", [1], "BYTES"),
    "batch": ("image", [17, 1], "BYTES"),
}


@pytest.mark.parametrize("protocol", [tritonclient.grpc, tritonclient.http], ids=PROTOCOLS)
@pytest.mark.parametrize(("name", "shape", "datatype"), WRONG_TENSORS.values(), ids=WRONG_TENSORS)
def test_a_wrong_tensor(server, protocol, name, shape, datatype):
    tensor = protocol.InferInput(name, shape, datatype)
    values = np.zeros(shape, np.int32) if datatype == "INT32" else np.full(shape, PHOTO, dtype=np.object_)
    tensor.set_data_from_numpy(values)
    url = server.grpc_url if protocol is tritonclient.grpc else server.http_url.removeprefix("http://")
    with protocol.InferenceServerClient(url) as client, pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, [tensor])
    assert caught.value.status() in {"400", "StatusCode.INVALID_ARGUMENT"}


BAD_BODIES = {
    "malformed": b'{"inputs": [',
    "a negative shape": json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1, 1], "data": ["x"]}]}
    ).encode(),
    "no input": b'{"inputs": []}',
    "an empty body": b"",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_json_body_is_an_error_and_no_more(server, body):
    request = urllib.request.Request(f"{server.http_url}/v2/models/{MODEL}/infer", body, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code in {400, 500}  # Triton's own parser answers; it says 500 to some malformed requests


@pytest.mark.parametrize(("image", "code"), REFUSED.values(), ids=REFUSED)
def test_bad_images_by_curl(server, tmp_path, image, code):
    (tmp_path / "image").write_bytes(image)
    status, body, _ = over_curl(server, MODEL, tmp_path / "image")
    assert status == 400
    assert body["error"].startswith(f"{code}: ")


def test_an_image_of_megabytes_by_curl(server, tmp_path):
    (tmp_path / "image").write_bytes(PHOTO + bytes(5 * 10**6))
    status, _, data = over_curl(server, MODEL, tmp_path / "image")
    assert status == 200
    assert over_grpc(server, MODEL, [PHOTO])["caption"][0, 0] in data


def refused(code, ask, *request, **parameters):
    """The message of a refusal: its code first, the client's fault by status, and nothing of the server's inside."""
    error = failure(ask, *request, **parameters)
    assert error.status() in {"400", "StatusCode.INVALID_ARGUMENT"}
    assert error.message().startswith(f"{code}: ")
    assert not SECRETS.search(error.message())
    return error.message()


def failure(ask, *request, **parameters):
    with pytest.raises(InferenceServerException) as caught:
        ask(*request, **parameters)
    return caught.value
