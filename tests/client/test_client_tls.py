"""``grpcs://`` and ``https://`` encrypt, and trust only the system's certificates or those of ``ca_file``."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from contextlib import contextmanager

import grpc
import pytest
from ofa_client import Captioner, ServiceUnavailableError

from nonsense_servers import JSON_CAPTION, grpc_server, http_answer, http_server, one_caption

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


@contextmanager
def secure_server(scheme, certificate, mutual=False):
    """Serve a cat with TLS; with ``mutual``, only to a client that shows the same certificate."""
    chain, key = certificate
    if scheme == "grpcs":
        pair = (key.read_bytes(), chain.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], chain.read_bytes() if mutual else None, mutual)
        with grpc_server(one_caption, tls=credentials) as url:
            yield url
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    if mutual:
        context.load_verify_locations(chain)
        context.verify_mode = ssl.CERT_REQUIRED
    with http_server(http_answer("200 OK", JSON_CAPTION), context) as url:
        yield url


@pytest.fixture(params=["grpcs", "https"])
def scheme(request):
    return request.param


@pytest.fixture
def secure_url(scheme, certificate):
    with secure_server(scheme, certificate) as url:
        yield url


def test_a_trusted_server_captions(secure_url, certificate):
    with Captioner(secure_url, ca_file=certificate[0]) as captioner:
        assert captioner.caption(b"an image").text == "a cat"


def test_an_unknown_certificate_is_refused(secure_url):
    with Captioner(secure_url, retry=None) as captioner, pytest.raises(ServiceUnavailableError):
        captioner.caption(b"an image")


def test_a_server_that_wants_a_certificate_gets_it(scheme, certificate):
    chain, key = certificate
    with secure_server(scheme, certificate, mutual=True) as url:
        with Captioner(url, ca_file=chain, cert_file=chain, key_file=key) as captioner:
            assert captioner.caption(b"an image").text == "a cat"
        with Captioner(url, ca_file=chain, retry=None) as captioner, pytest.raises(ServiceUnavailableError):
            captioner.caption(b"an image")


def test_a_key_of_another_certificate_is_refused_at_once(certificate):
    chain, _ = certificate
    with pytest.raises(ValueError, match="no PEM certificate and its key"):
        Captioner("grpcs://127.0.0.1", cert_file=chain)
    with pytest.raises(ValueError, match="key_file is the key of a cert_file"):
        Captioner("grpcs://127.0.0.1", key_file=chain)


def test_a_file_without_certificates_is_refused_at_once(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError, match="holds no PEM certificates"):
        Captioner("grpcs://127.0.0.1", ca_file=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError):
        Captioner("grpcs://127.0.0.1", ca_file=tmp_path / "missing.pem")
