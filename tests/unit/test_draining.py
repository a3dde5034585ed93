"""The launcher's wait for the requests in flight, by what a server's metrics say, or fail to say."""

import threading
import time
from types import SimpleNamespace

import pytest
from nonsense_servers import http_server
from ofa_serving.launcher import server as module
from ofa_serving.launcher.server import Server
from ofa_serving.launcher.server_metrics import read_metric


@pytest.fixture
def serving(monkeypatch, tmp_path):
    """A function that gives a server which is up, and whose scrapes have these results, one after the other."""
    process = SimpleNamespace(pid=0, exit_code=None)
    settings = SimpleNamespace(log_format="text", request_log="none", trace_url="", start_timeout=60)
    plan = SimpleNamespace(settings=settings, canaries=(), installation=SimpleNamespace(environment={}))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "TritonProcess", lambda *_: process)
    monkeypatch.setattr(module, "ModelProcesses", lambda: SimpleNamespace(find=lambda _pid: None, failure=None))
    monkeypatch.setattr(module, "_DRAIN_SECONDS", 0.01)
    monkeypatch.setattr(Server, "_command", lambda *_: [])
    monkeypatch.setattr(Server, "_is_ready", lambda _: True)

    def start(*scrapes):
        results = iter(scrapes)
        monkeypatch.setattr(Server, "metric", lambda _self, _name: next(results))
        server = Server(plan, "ofa-", 0)
        assert server.wait_until_ready(threading.Event())
        return server

    return start


def drain(server, seconds=60.0):
    return server.drain(time.monotonic() + seconds, threading.Event())


def test_it_waits_until_none_is_in_flight(serving):
    assert drain(serving(0, 2, 1, 0))


def test_a_scrape_that_fails_says_nothing(serving):
    assert drain(serving(1, None, 1, None, 0))


def test_a_server_that_does_not_count_is_not_waited_for(serving):
    assert not drain(serving(None, None))


def test_it_waits_no_longer_than_it_may(serving):
    assert not drain(serving(1, *[None] * 1000), seconds=0.05)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nof 1", b"nonsense\r\n\r\n", b""])
def test_an_answer_that_breaks_off_is_none(answer):
    with http_server(answer) as url:
        assert read_metric(f"{url}/metrics", "of") is None
