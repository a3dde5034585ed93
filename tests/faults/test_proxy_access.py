"""The front as it faces the internet: TLS, keys and certificates, a part of the room for each caller."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from proxy_process import MISSING, NGINX, ProxyProcess
from proxy_requests import IMAGE, INFER, KNOWN, MODEL, RAW, http, refusal
from serving_process import wait_until
from tritonclient.utils import InferenceServerException
from wire import over_grpc

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)


@pytest.fixture(scope="module")
def closed(server, tmp_path_factory):
    """A proxy as it faces the internet: TLS, keys for two callers, and certificates of one authority."""
    proxy = ProxyProcess(tmp_path_factory.mktemp("closed"), [server], site="tls")
    certificates(proxy.site)
    (proxy.site / "keys.conf").write_text('"key-of-ann" ann;\n"key-of-ben" ben;\n')
    with proxy:
        yield proxy


def certificates(folder):
    """An authority, the server's certificate, a client's, and one that only looks like it."""
    for name in ("ca", "stranger"):
        openssl(folder, "req", "-x509", *key(name), "-out", f"{name}.crt", "-days", "1", "-subj", f"/CN={name}")
    for name, authority in (("server", "ca"), ("client", "ca"), ("impostor", "stranger")):
        (folder / "names").write_text("subjectAltName=DNS:localhost")
        openssl(folder, "req", *key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed_by = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial")
        openssl(
            folder,
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            *signed_by,
            "-out",
            f"{name}.crt",
            "-days",
            "1",
            "-extfile",
            "names",
        )


def key(name):
    return "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key"


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def tls(proxy, client=None):
    context = ssl.create_default_context(cafile=str(proxy.site / "ca.crt"))
    if client:
        context.load_cert_chain(proxy.site / f"{client}.crt", proxy.site / f"{client}.key")
    return context


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": "key-of-ann"}, {"Authorization": "Bearer key-of-ann"}, {"Authorization": "bearer key-of-ben"}],
)
def test_a_key_lets_in(closed, headers):
    status, _, body = http(closed, INFER, IMAGE, {**RAW, **headers}, tls(closed))
    assert status == 200
    assert KNOWN.encode() in body


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "key-of-an"},
        {"X-API-Key": "KEY-OF-ANNE"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic key-of-ann"},
        {"X-API-Key": "default"},
    ],
)
def test_without_a_key_nobody_gets_in(closed, headers):
    assert refusal(closed, INFER, IMAGE, {**RAW, **headers}, tls(closed)) == (401, "ACCESS_REFUSED")
    assert refusal(closed, "/v2/health/ready", None, headers, tls(closed)) == (401, "ACCESS_REFUSED")


def test_plain_http_and_headers_without_end_are_refused_in_the_servers_words(closed):
    plain = SimpleNamespace(http_url=closed.http_url.replace("https://", "http://"))
    assert refusal(plain, "/v2/health/ready") == (400, "INVALID_REQUEST")
    assert refusal(closed, "/v2/health/ready", None, {"X": "x" * 40_000}, tls(closed)) == (400, "INVALID_REQUEST")


def test_a_certificate_lets_in_and_a_strangers_does_not(closed):
    assert http(closed, INFER, IMAGE, RAW, tls(closed, "client"))[0] == 200
    assert refusal(closed, INFER, IMAGE, RAW, tls(closed, "impostor")) == (401, "ACCESS_REFUSED")


def test_a_certificate_can_be_asked_of_everybody(server, tmp_path):
    proxy = ProxyProcess(tmp_path / "proxy", [server], site="tls")
    certificates(proxy.site)
    (proxy.site / "keys.conf").write_text('"key-of-ann" ann;\n')
    asked = proxy.site / "client_certificates.conf"
    asked.write_text(asked.read_text().replace("ssl_verify_client optional;", "ssl_verify_client on;"))
    with proxy:
        assert http(proxy, INFER, IMAGE, RAW, tls(proxy, "client"))[0] == 200
        key = {**RAW, "X-API-Key": "key-of-ann"}
        assert refusal(proxy, INFER, IMAGE, key, tls(proxy)) == (401, "ACCESS_REFUSED")


def test_keys_and_tls_over_grpc(closed):
    roots = str(closed.site / "ca.crt")
    image = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[IMAGE]], dtype=np.object_))
    with tritonclient.grpc.InferenceServerClient(closed.grpc_url, ssl=True, root_certificates=roots) as client:
        answer = client.infer(MODEL, [image], headers={"x-api-key": "key-of-ann"})
        assert answer.as_numpy("caption")[0, 0].decode() == KNOWN
        with pytest.raises(InferenceServerException, match="ACCESS_REFUSED") as refused:
            client.infer(MODEL, [image], headers={"x-api-key": "key"})
    assert refused.value.status() == "StatusCode.UNAUTHENTICATED"


def test_keys_are_not_logged(closed):
    http(closed, INFER, IMAGE, {**RAW, "Authorization": "Bearer key-of-ann"}, tls(closed))
    wait_until(lambda: '"caller":"ann"' in closed.log_path.read_text())  # it is written after the answer
    assert "key-of-ann" not in closed.log_path.read_text()


def test_old_protocols_are_refused(closed):
    context = tls(closed)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError):
        http(closed, "/v2/health/ready", None, {}, context)


def test_one_callers_flood_does_not_starve_another(server, closed):
    """A caller gets 32 requests at a time and no more, whatever it sends; the rest of the room is the others'."""
    url, context = closed.http_url.removeprefix("https://"), tls(closed)
    long = {"beam_size": 8, "max_length": 64, "min_length": 64, "no_repeat_ngram_size": 0}
    with tritonclient.http.InferenceServerClient(url, ssl=True, ssl_context_factory=lambda: context) as client:
        tensor = tritonclient.http.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[IMAGE]], dtype=np.object_))
        body, length = client.generate_request_body([tensor], parameters=long)
    flood = {"Inference-Header-Content-Length": str(length), "X-API-Key": "key-of-ann"}
    with ThreadPoolExecutor(60) as pool:
        flooding = [pool.submit(http, closed, INFER, body, flood, tls(closed)) for _ in range(60)]
        wait_until(lambda: server.metric("ofa_requests_in_flight") > 20)
        status, _, answer = http(closed, INFER, IMAGE, {**RAW, "X-API-Key": "key-of-ben"}, tls(closed))
        assert status == 200
        assert KNOWN.encode() in answer
        refused = [(headers, body) for status, headers, body in (one.result() for one in flooding) if status == 429]
    assert refused
    for headers, body in refused:
        assert json.loads(body)["error"].startswith("OVERLOADED: ")
        assert headers["Retry-After"] == "1"


def test_without_a_server_the_caller_is_told_when_to_come_again(tmp_path):
    nobody = SimpleNamespace(http_url="http://127.0.0.1:1", grpc_url="127.0.0.1:1")
    with ProxyProcess(tmp_path / "proxy", [nobody]) as proxy:
        status, headers, body = http(proxy, INFER, IMAGE, RAW)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert status_of(f"{proxy.health_url}/ready") == 502
        assert status_of(f"{proxy.health_url}/alive") == 204
        assert json.loads(body)["error"].startswith("UNAVAILABLE: ")
        with pytest.raises(InferenceServerException, match="UNAVAILABLE: no server answers or has room") as refused:
            over_grpc(proxy, MODEL, [IMAGE])
    assert refused.value.status() == "StatusCode.UNAVAILABLE"


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
