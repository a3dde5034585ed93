"""Mutated images and requests: captions or documented refusals, nothing of the server's inside, and nothing dies.

``make fuzz`` makes 10,000 of each; every run of the tests some hundreds.
"""

import contextlib
import http.client
import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from bad_images import ACCEPTED, PHOTO
from cases import CASES
from flood import CODES
from mutations import mutated
from ofa_serving.contract import CaptionError
from ofa_serving.images import load_pixels
from processes import descendants
from proxy_process import MISSING, NGINX, ProxyProcess
from tritonclient.grpc import service_pb2
from wire import over_grpc

MODEL = CASES[0].model_name
INFER = f"/v2/models/{MODEL}/infer"
SEEDS = [*CASES[0].images, *ACCEPTED.values()]
SECRETS = re.compile(r"/\w+/\w|Traceback|\.py\b|\bline \d+|shm|ofa-serve-|pb_stub|_preprocess|_encoder|_beam_search")
"""Paths, traces and internal names, which no message may show."""

DOCUMENTED = (CODES | {"INVALID_REQUEST", "NOT_FOUND"}) - {"OK", "INTERNAL"}
"""Those of the server and, the last two, of the proxy; a fuzzer must not find a bug."""

SLOWEST = 10
"""Seconds of a core that one image may take to be decoded or refused."""

amounts = pytest.mark.parametrize("amount", [400, pytest.param(10_000, marks=pytest.mark.long)])


def mutations(seeds, amount, seed):
    rng = np.random.default_rng(seed)
    for number in range(amount):
        yield mutated(seeds[number % len(seeds)], rng)


@amounts
def test_mutated_images_give_pixels_or_a_documented_refusal(amount, record_property):
    codes, slowest = Counter(), 0.0
    for image in mutations(SEEDS, amount, seed=18):
        began = time.thread_time()
        try:
            pixels = load_pixels(image, 64)
        except CaptionError as error:
            codes[error.code] += 1
            assert not SECRETS.search(str(error))
        else:
            codes["OK"] += 1
            assert pixels.shape == (64, 64, 3)
        slowest = max(slowest, time.thread_time() - began)
    record_property("codes", dict(codes))
    assert slowest < SLOWEST
    assert set(codes) <= CODES - {"INTERNAL"}
    assert codes["OK"] > 0 < codes["TRUNCATED_IMAGE"]


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    """The deployment's proxy, without the bound on one caller's rate: the fuzzer is one caller."""
    if NGINX is None:
        pytest.skip(MISSING)
    front = ProxyProcess(tmp_path_factory.mktemp("proxy"), [server])
    limits = front.site / "limits.conf"
    limits.write_text(re.sub(r"rate=\d+r/s", "rate=100000r/s", limits.read_text()))
    with front:
        yield front


@pytest.fixture
def unharmed(server):
    before = descendants(server.pid)
    yield
    assert over_grpc(server, MODEL, [CASES[0].images[0]])["caption"].size == 1
    assert descendants(server.pid) == before


@amounts
def test_mutated_http_requests(proxy, unharmed, amount, record_property):
    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(lambda job: http_status(proxy, *job), http_jobs(amount)))
    record_property("statuses", dict(statuses))
    assert set(statuses) <= {200, 400, 404, 408, 413, 415, 429, 500, 503, "closed"}
    assert statuses[200] > 0 < statuses[400]


def http_jobs(amount):
    """The JSON part, the tensor behind it and the length that parts them, each mutated in a third of the requests."""
    rng = np.random.default_rng(20)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    data = len(PHOTO).to_bytes(4, "little") + PHOTO
    request = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}],
        "outputs": [{"name": "caption", "parameters": {"binary_data": True}}, {"name": "score"}],
        "parameters": {"beam_size": 2, "temperature": "1.5"},
    }
    head = json.dumps(request).encode()
    for number in range(amount):
        part = number % 3
        mutant = mutated(head, rng) if part == 0 else head
        body = mutant + (mutated(data, rng) if part == 1 else data)
        length = str(len(mutant))
        if part == 2:
            length = mutated(length.encode(), rng).decode("latin-1").translate({ord(c): None for c in "\r\n\0"})
        yield length, body


def http_status(proxy, length, body):
    """The status of one request; what is said in a refusal is looked through."""
    connection = http.client.HTTPConnection("localhost", proxy.http_port, timeout=60)
    try:
        connection.putrequest("POST", INFER)
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Inference-Header-Content-Length", length.encode("latin-1"))
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read()
    except (ConnectionError, http.client.RemoteDisconnected):
        return "closed"
    finally:
        connection.close()
    if answer.status != 200:
        check_words(json.loads(text.decode(errors="replace"))["error"])
    return answer.status


def check_words(told):
    """A refusal in the contract's words has one of its codes, and not the one for a bug; Triton's own has none."""
    assert not SECRETS.search(told), told
    code = re.match(r"([A-Z_]{4,}): ", told)
    assert code is None or code[1] in DOCUMENTED, told


@amounts
def test_mutated_grpc_requests(proxy, unharmed, amount, record_property):
    with grpc.insecure_channel(proxy.grpc_url) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # bytes in, bytes out

        def status(message):
            try:
                infer(message, timeout=60)
            except grpc.RpcError as error:
                check_words(error.details())
                return error.code().name
            return "OK"

        with ThreadPoolExecutor(16) as pool:
            statuses = Counter(pool.map(status, grpc_messages(amount)))
    record_property("statuses", dict(statuses))
    assert set(statuses) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED"}
    assert statuses["OK"] > 0 < statuses["INVALID_ARGUMENT"]


def grpc_messages(amount):
    """Messages mutated as a whole, which mostly breaks them; in their tensor alone; and in what is said about it."""
    rng = np.random.default_rng(21)
    data = len(PHOTO).to_bytes(4, "little") + PHOTO
    for number in range(amount):
        part = number % 3
        request = grpc_request(mutated(data, rng) if part == 1 else data)
        if part == 2:
            change(request, rng)
        message = request.SerializeToString()
        yield mutated(message, rng) if part == 0 else message


def grpc_request(data):
    request = service_pb2.ModelInferRequest(model_name=MODEL, id="7")
    request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="caption")
    request.parameters["beam_size"].int64_param = 2
    request.raw_input_contents.append(data)
    return request


def change(request, rng):
    """One to three fields that fit the protocol and not the model."""
    numbers = [-(2**63), -1, 0, 1, 2, 17, 2**31, 2**63 - 1]
    words = ["", "BYTES", "INT32", "FP32", "image", "caption", "x" * 10_000, "\x00", "é", "NaN", "1e309"]

    def number():
        return int(rng.choice(numbers))

    def word():
        return words[rng.integers(len(words))]

    changes = [
        lambda: request.inputs[0].shape.append(number()),
        lambda: request.inputs[0].shape.__setitem__(0, number()),
        lambda: setattr(request.inputs[0], "datatype", word()),
        lambda: setattr(request.inputs[0], "name", word()),
        lambda: request.inputs.add(name=word(), datatype=word(), shape=[number()]),
        lambda: request.outputs.add(name=word()),
        lambda: setattr(request.outputs[0], "name", word()),
        lambda: setattr(request, "model_version", word()),
        lambda: setattr(request, "id", word()),
        lambda: setattr(request.parameters["beam_size"], "int64_param", number()),
        lambda: setattr(request.parameters["length_penalty"], "string_param", word()),
        lambda: setattr(request.parameters["temperature"], "double_param", float("nan")),
        lambda: setattr(request.parameters[word() or "empty"], "bool_param", True),
        lambda: setattr(request.parameters["sequence_id"], "int64_param", number()),
        lambda: setattr(request.parameters["timeout"], "int64_param", number()),
        lambda: setattr(request.parameters["priority"], "uint64_param", 2**63),
        lambda: request.raw_input_contents.append(rng.bytes(int(rng.integers(64)))),
        request.raw_input_contents.pop,
        lambda: request.inputs[0].contents.bytes_contents.append(PHOTO),
    ]
    for _ in range(rng.integers(1, 4)):
        with contextlib.suppress(IndexError):  # nothing is left to be taken out
            changes[rng.integers(len(changes))]()
