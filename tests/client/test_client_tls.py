"""``grpcs://`` and ``https://`` encrypt, and trust only the system's certificates or those of ``ca_file``."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import grpc
import pytest
from ofa_client import Captioner, ServiceUnavailableError

from nonsense_servers import grpc_server, http_server, one_caption

JSON_ANSWER = (
    '{"outputs": [{"name": "caption", "datatype": "BYTES", "shape": [1, 1], "data": ["a cat"]},'
    ' {"name": "score", "datatype": "FP32", "shape": [1, 1], "data": [-0.5]}]}'
)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(["openssl", "req", *kind, *names, *files], check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture(params=["grpcs", "https"])
def secure_url(request, certificate):
    chain, key = certificate
    if request.param == "grpcs":
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
        with grpc_server(one_caption, tls=credentials) as url:
            yield url
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(JSON_ANSWER)}\r\n\r\n{JSON_ANSWER}".encode()
    with http_server(answer, context) as url:
        yield url


def test_a_trusted_server_captions(secure_url, certificate):
    with Captioner(secure_url, ca_file=certificate[0]) as captioner:
        assert captioner.caption(b"an image").text == "a cat"


def test_an_unknown_certificate_is_refused(secure_url):
    with Captioner(secure_url) as captioner, pytest.raises(ServiceUnavailableError):
        captioner.caption(b"an image")


def test_a_file_without_certificates_is_refused_at_once(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError, match="holds no PEM certificates"):
        Captioner("grpcs://127.0.0.1", ca_file=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError):
        Captioner("grpcs://127.0.0.1", ca_file=tmp_path / "missing.pem")
