"""Several servers behind the deployment's own nginx configuration: whom it asks when one refuses, stops or is dead; and
what one caller may have of the proxy's room.

The servers are stand-ins which refuse in Triton's way, over HTTP with a 503.
"""

import contextlib
import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from proxy_process import MISSING, NGINX, PROXY, ProxyProcess
from proxy_requests import INFER, RAW, http, refusal
from serving_process import wait_until

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
    """A function that puts servers behind a proxy, perhaps with more limits, which ends with the test."""
    with ExitStack() as running:

        def start(servers, limits=""):
            proxy = ProxyProcess(tmp_path / "proxy", servers)
            path = proxy.site / "limits.conf"
            path.write_text(path.read_text() + limits)
            return running.enter_context(proxy)

        yield start


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


LARGE = 10**6
"""Bytes from which on a body counts as a large one."""

LIMITS = (PROXY / "plain/limits.conf").read_text()
LARGE_AT_A_TIME = int(re.search(r"limit_conn large (\d+);", LIMITS)[1])


@contextlib.contextmanager
def slow_bodies(proxy, count, length=f"Content-Length: {LARGE}", address="127.0.0.1"):
    """So many callers' requests whose bodies have begun and do not go on; yields their connections."""
    with contextlib.ExitStack() as held:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", proxy.http_port), timeout=60, source_address=(address, 0))
            clients.append(held.enter_context(client))
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{length}\r\nInference-Header-Content-Length: 0\r\n\r\n"
            client.sendall(head.encode() + b"1\r\nx\r\n")
        yield clients


def status_of(client):
    return int(client.recv(4096).split()[1])


def waits(client):
    """Whether the proxy goes on taking a body."""
    client.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        return not client.recv(1, socket.MSG_PEEK)
    client.settimeout(60)
    return True


@pytest.mark.parametrize("length", [f"Content-Length: {LARGE}", "Transfer-Encoding: chunked"])
def test_one_caller_cannot_fill_the_room_for_bodies(behind, servers, length):
    proxy = behind(servers)

    def one_more_is_refused():
        with slow_bodies(proxy, 1, length) as (one_more,):
            return not waits(one_more) and status_of(one_more) == 429

    with slow_bodies(proxy, LARGE_AT_A_TIME, length) as taken:
        assert waits(taken[-1])
        wait_until(one_more_is_refused)  # once every worker of nginx has counted its own
        assert waits(taken[-1])
        assert http(proxy, INFER, GOOD, RAW)[0] == 200
        with slow_bodies(proxy, 1, length, "127.0.0.2") as (another,):
            assert waits(another)


def test_small_bodies_are_not_counted_among_the_large(behind, servers):
    proxy = behind(servers)
    with slow_bodies(proxy, LARGE_AT_A_TIME), slow_bodies(proxy, 4, f"Content-Length: {LARGE - 1}") as small:
        assert all(waits(client) for client in small)


BEHIND_A_BALANCER = "\n".join(re.findall(r"^# (.*real_ip.*;)$", LIMITS, re.MULTILINE))
"""What the site's file proposes; the balancer is among 10.0.0.0/8."""

HERE_AND_ONCE_A_MINUTE = """
set_real_ip_from 127.0.0.1;
limit_req_zone $share zone=slow:1m rate=1r/m;
limit_req zone=slow;
"""


def addresses(proxy, count):
    """Where the first calls came from by the log, which is written after the answer."""

    def logged():
        lines = [line for line in proxy.log_path.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line)["address"] for line in lines]

    wait_until(lambda: len(logged()) >= count)
    return logged()


def forwarded(proxy, chain):
    return http(proxy, INFER, GOOD, {**RAW, "X-Forwarded-For": chain})[0]


def test_callers_behind_a_balancer_that_is_trusted_are_told_apart(behind, servers):
    """By the last address in the chain that is not a balancer's: what stands before it a caller can make up."""
    proxy = behind(servers, BEHIND_A_BALANCER + HERE_AND_ONCE_A_MINUTE)
    assert forwarded(proxy, "192.0.2.1") == 200
    assert forwarded(proxy, "192.0.2.1") == 429
    assert forwarded(proxy, "192.0.2.9, 192.0.2.1, 10.1.2.3") == 429
    assert forwarded(proxy, "192.0.2.2, 10.1.2.3") == 200
    assert addresses(proxy, 4) == ["192.0.2.1"] * 3 + ["192.0.2.2"]


def test_nobody_else_is_believed_where_a_call_comes_from(behind, servers):
    proxy = behind(servers)
    assert forwarded(proxy, "192.0.2.1") == 200
    assert addresses(proxy, 1) == ["127.0.0.1"]
