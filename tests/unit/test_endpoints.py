"""The launcher's own way to its server: past every proxy that the environment names."""

import urllib.request

import pytest
from nonsense_servers import grpc_server, http_answer, http_server, one_caption
from ofa_serving.launcher import server_metrics
from ofa_serving.launcher.canary import Canary
from ofa_serving.launcher.server_metrics import read_metric


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """A proxy that leads nowhere, as containers are given one: without exceptions."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(server_metrics, "_TIMEOUT", 60)  # for a machine that stands still for a while
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers the proxies of its first use


def test_the_metrics_are_read_by_no_proxy():
    with http_server(http_answer("200 OK", "of 3\n")) as url:
        assert read_metric(f"{url}/metrics", "of") == 3


def test_the_known_image_is_sent_by_no_proxy():
    with grpc_server(one_caption) as url:
        Canary("ofa_caption", b"an image", {}, ("a cat",)).check(url.removeprefix("grpc://"), 60)
