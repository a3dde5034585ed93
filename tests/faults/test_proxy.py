"""Through the deployment's own nginx configuration: what must not reach Triton does not, and what may works."""

import contextlib
import gzip
import json
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from bad_images import PHOTO
from processes import descendants, shared_memory_bytes
from proxy_process import MISSING, NGINX, ProxyProcess
from proxy_requests import IMAGE, INFER, KNOWN, MODEL, RAW, http, refusal
from serving_process import wait_until
from tritonclient.utils import InferenceServerException
from wire import over_curl, over_grpc, over_http

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

CUT_SECONDS = 30
"""A slow client is cut after 5 seconds; more for a busy machine, and less than nginx's own 60."""

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), [server]) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(request, server):
    """After each fault the same processes still caption, and no shared memory has been added for what was refused."""
    processes, memory = descendants(server.pid), shared_memory_bytes(server)
    yield
    assert over_grpc(server, MODEL, [IMAGE])["caption"][0, 0].decode() == KNOWN
    assert descendants(server.pid) == processes
    assert shared_memory_bytes(server) < memory + 64 * MEBIBYTE


def connect(proxy, port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


# What goes through


@pytest.mark.parametrize("ask", [over_grpc, over_http], ids=["grpc", "http"])
def test_captions_are_those_of_the_server_itself(server, proxy, ask):
    through, direct = ask(proxy, MODEL, [IMAGE] * 3), ask(server, MODEL, [IMAGE] * 3)
    for name, values in direct.items():
        np.testing.assert_array_equal(through[name], values)


def test_a_file_by_curl(proxy, tmp_path):
    (tmp_path / "image").write_bytes(IMAGE)
    status, _, body = over_curl(proxy, MODEL, tmp_path / "image")
    assert status == 200
    assert KNOWN.encode() in body


def test_health_and_metadata(proxy):
    assert http(proxy, "/v2/health/ready")[0] == 200
    assert http(proxy, "/v2/health/live")[0] == 200
    assert http(proxy, f"/v2/models/{MODEL}/ready")[0] == 200
    assert json.loads(http(proxy, f"/v2/models/{MODEL}")[2])["name"] == MODEL


def test_the_servers_own_refusals_keep_their_words_and_say_when_to_come_again(proxy):
    status, headers, body = http(proxy, INFER, b"no image", RAW)
    assert (status, json.loads(body)["error"].split(":")[0]) == (400, "UNSUPPORTED_FORMAT")
    assert headers["Retry-After"] is None


def test_a_request_id_is_kept_if_it_is_a_plain_word_and_made_otherwise(proxy):
    assert http(proxy, "/v2/health/ready", None, {"X-Request-Id": "my-id.7"})[1]["X-Request-Id"] == "my-id.7"
    made = http(proxy, "/v2/health/ready", None, {"X-Request-Id": "a b<script>"})[1]["X-Request-Id"]
    assert len(made) == 32
    wait_until(lambda: f'"id":"{made}"' in proxy.log_path.read_text())


# What does not


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        f"/v2/repository/models/{MODEL}/unload",
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/cudasharedmemory/status",
        "/v2/trace/setting",
        "/v2/logging",
        "/v2",
        "/v2/models/stats",
        f"/v2/models/{MODEL}/config",
        f"/v2/models/{MODEL}/stats",
        f"/v2/models/{MODEL}/generate",
        f"/v2/models/{MODEL}_preprocess/infer",
        f"/v2/models/{MODEL}_encoder",
        f"/v2/models/{MODEL}_beam_search/infer",
        f"/v2/models/{MODEL}/versions/1/infer",
        f"/json-only{INFER}",
        "/metrics",
        "/",
    ],
)
@pytest.mark.parametrize("body", [None, b"{}"], ids=["GET", "POST"])
def test_other_paths_do_not_exist(proxy, path, body):
    assert refusal(proxy, path, body) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(proxy, method):
    assert refusal(proxy, INFER, method=method) == (403, "ACCESS_REFUSED")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_repository_index(),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("x", "/x", 1),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_model_config(MODEL),
        lambda client: client.get_inference_statistics(),
        lambda client: client.get_server_metadata(),
        lambda client: client.unload_model(MODEL),
    ],
)
def test_other_grpc_methods_do_not_exist(proxy, call):
    with tritonclient.grpc.InferenceServerClient(proxy.grpc_url) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException) as refused:
            call(client)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    assert refused.value.message().startswith("NOT_FOUND: ")


def test_a_body_of_200_megabytes_is_refused(proxy):
    assert refusal(proxy, INFER, bytes(200 * MEBIBYTE), RAW) == (413, "IMAGE_TOO_LARGE")


def test_a_message_of_200_megabytes_is_refused(proxy):
    with pytest.raises(InferenceServerException) as refused:
        over_grpc(proxy, MODEL, [bytes(200 * MEBIBYTE)])
    assert refused.value.message().startswith("IMAGE_TOO_LARGE: ")


def test_a_form_of_22_megabytes_ends_no_server(proxy):
    form = {**RAW, "Content-Type": "application/x-www-form-urlencoded"}  # would be on a stack twice
    assert refusal(proxy, INFER, bytes(22 * 10**6), form) == (400, "IMAGE_TOO_LARGE")


def test_600_000_chunks_of_one_byte_are_one_body(proxy):
    with connect(proxy, proxy.http_port) as client:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        client.sendall(f"{head}Inference-Header-Content-Length: 0\r\n\r\n".encode())
        for _ in range(600):
            client.sendall(b"1\r\nx\r\n" * 1000)
        client.sendall(b"0\r\n\r\n")
        answer = b""
        while b"UNSUPPORTED_FORMAT" not in answer and (more := client.recv(65536)):  # it may come in parts
            answer += more
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"UNSUPPORTED_FORMAT" in answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_compressed_bodies_are_refused(proxy, encoding):
    headers = {**RAW, "Content-Encoding": encoding}
    assert refusal(proxy, INFER, gzip.compress(PHOTO), headers) == (415, "INVALID_REQUEST")


def test_compressed_messages_are_refused(proxy):
    image = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[PHOTO]], dtype=np.object_))
    with (
        tritonclient.grpc.InferenceServerClient(proxy.grpc_url) as client,
        pytest.raises(InferenceServerException, match="INVALID_REQUEST: compressed"),
    ):
        client.infer(MODEL, [image], compression_algorithm="gzip")


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e3", "0x10", "99999999999999999999", "0, 0"])
def test_a_bad_inference_header_content_length_is_refused(proxy, length):
    headers = {"Inference-Header-Content-Length": length}
    assert refusal(proxy, INFER, b"{}", headers) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("length", ["3", "9999"])
def test_an_inference_header_content_length_past_the_body_is_refused(proxy, length):
    assert http(proxy, INFER, b"{}", {"Inference-Header-Content-Length": length})[0] == 400


def test_deep_json_is_stopped_in_front(proxy):
    deep = b"[" * 100_000 + b"]" * 100_000
    assert refusal(proxy, INFER, deep) == (413, "IMAGE_TOO_LARGE")
    headers = {"Inference-Header-Content-Length": str(len(deep))}
    assert refusal(proxy, INFER, deep, headers) == (400, "INVALID_REQUEST")


def test_json_as_deep_as_is_let_through_harms_nobody(proxy):
    for size, headers in ((8000, {}), (4900, {"Inference-Header-Content-Length": "9800"})):
        status, _, _ = http(proxy, INFER, b"[" * size + b"]" * size, headers)
        assert status in {400, 500}


@pytest.mark.parametrize("shape", [[2**62, 4], [2**63 - 1], [-1, 1], [2**32, 2**32], [0, 1], [1] * 1000])
def test_shapes_that_overflow_harm_nobody(proxy, shape):
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, _, _ = http(proxy, INFER, head + bytes(4), headers)
    assert status in {400, 500}
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(bytes(4))
    with (
        tritonclient.grpc.InferenceServerClient(proxy.grpc_url) as client,
        pytest.raises(Exception, match="StatusCode"),
    ):
        client._client_stub.ModelInfer(request)


# Slow and many clients


SLOW = {
    "nothing": b"",
    "a word": b"POST ",
    "half a head": b"POST / HTTP/1.1\r\nHost: x\r\n",
    "no body": f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode(),
    "half a body": f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx".encode(),
    "a chunk": f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".encode(),
    "half of gRPC's preface": b"PRI * HTTP/2.0\r\n",
}


@pytest.fixture(scope="module")
def held(proxy):
    """How long each slow client, all at once, could hold its connection, in seconds."""

    def hold(name):
        port = proxy.grpc_port if "gRPC" in name else proxy.http_port
        began = time.monotonic()
        with connect(proxy, port) as client, contextlib.suppress(ConnectionResetError):
            client.sendall(SLOW[name])
            while client.recv(65536):
                pass
        return time.monotonic() - began

    with ThreadPoolExecutor(len(SLOW)) as pool:
        return dict(zip(SLOW, pool.map(hold, SLOW), strict=True))


@pytest.mark.parametrize("sent", SLOW)
def test_slow_clients_are_cut(held, sent):
    assert held[sent] < CUT_SECONDS


def test_2000_idle_connections_leave_room_for_others(proxy):
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 2500:
        pytest.skip(f"this machine lets a process open {most} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    idle = []
    try:
        idle += [connect(proxy, proxy.http_port) for _ in range(2000)]
        assert http(proxy, "/v2/health/ready")[0] == 200
        assert over_http(proxy, MODEL, [IMAGE])["caption"][0, 0].decode() == KNOWN
    finally:
        for client in idle:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
