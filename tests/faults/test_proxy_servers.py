"""Several servers behind the deployment's own nginx configuration: whom it asks when one refuses, stops or is dead.

The servers are stand-ins which refuse in Triton's way, over HTTP with a 503.
"""

import socket
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from proxy_process import MISSING, NGINX, ProxyProcess
from proxy_requests import INFER, RAW, http, refusal

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

LATE, VERY_LATE, GOOD = b"late", b"very late", b"good"
SECONDS = {VERY_LATE: 3.5}
"""A refusal that comes later than this is not another server's business."""


class StandIn:
    """A server that captions, but says 503 to what is late, and to everything once it is stopping."""

    def __init__(self):
        self.asked, self.stopping = [], False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http_url = f"http://127.0.0.1:{self._http.server_port}"
        self.grpc_url = dead().grpc_url

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self._http.shutdown()
        self._http.server_close()

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append(body)
                time.sleep(SECONDS.get(body, 0))
                refused = server.stopping or body != GOOD
                answer = b'{"error":"DEADLINE_EXCEEDED: the deadline passed"}' if refused else b"{}"
                self.send_response(503 if refused else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_words):
                pass

        return Handler


def dead():
    """A server at whose addresses nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    return SimpleNamespace(http_url=f"http://{address}", grpc_url=address)


@pytest.fixture
def behind(tmp_path):
    """A function that puts servers behind a proxy, which ends with the test."""
    with ExitStack() as running:
        yield lambda servers: running.enter_context(ProxyProcess(tmp_path / "proxy", servers))


@pytest.fixture
def servers():
    with StandIn() as one, StandIn() as other:
        yield [one, other]


def test_calls_whose_time_runs_out_take_no_server_away_from_others(behind, servers):
    proxy = behind(servers)
    for _ in servers:
        assert refusal(proxy, INFER, LATE, RAW) == (503, "DEADLINE_EXCEEDED")
    assert [http(proxy, INFER, GOOD, RAW)[0] for _ in range(4)] == [200] * 4


def test_a_refusal_that_comes_late_is_not_asked_for_again(behind, servers):
    assert refusal(behind(servers), INFER, VERY_LATE, RAW) == (503, "DEADLINE_EXCEEDED")
    assert sum(len(server.asked) for server in servers) == 1


def test_a_server_that_stops_is_passed_over(behind, servers):
    proxy = behind(servers)
    servers[0].stopping = True
    assert [http(proxy, INFER, GOOD, RAW)[0] for _ in range(6)] == [200] * 6


@pytest.mark.parametrize("count", [1, 2])
def test_dead_servers_are_passed_over(behind, servers, count):
    proxy = behind([*(dead() for _ in range(count)), servers[0]])
    assert [http(proxy, INFER, GOOD, RAW)[0] for _ in range(6)] == [200] * 6
