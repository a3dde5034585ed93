"""A server that is told to end loses nothing, and one of two is replaced without a client seeing it."""

import re
import signal

import pytest
import tritonclient.grpc
from callers import Callers, tensor
from cases import CASES
from flood import known_images
from proxy_process import MISSING, NGINX, ProxyProcess
from serving_process import ServerProcess, wait_until

MODEL = CASES[0].model_name
LONG = {"beam_size": 4, "max_length": 128, "min_length": 128, "no_repeat_ngram_size": 0}
"""Forty of them take seconds, and on a slow machine too fewer than the 30 that the server gives a request."""

needs_proxy = pytest.mark.skipif(NGINX is None, reason=MISSING)


class Pair:
    """Two servers of one checkpoint; one that has ended is replaced by a new one when it is asked for."""

    def __init__(self, artifacts, work):
        self._artifacts, self._work, self._started, self._running = artifacts, work, 0, []

    @property
    def servers(self):
        while len(self._running) < 2:
            self.add()
        return list(self._running)

    def add(self):
        self._started += 1
        work = self._work / str(self._started)
        work.mkdir()
        server = ServerProcess(self._artifacts, [MODEL], work)
        server.__enter__()
        self._running.append(server)

    def end(self, server, number=signal.SIGTERM):
        """As an orchestrator does; its exit code."""
        self._running.remove(server)
        server.send_signal(number)
        try:
            return server.wait(120)
        finally:
            server.stop()

    def close(self):
        for server in list(self._running):
            self.end(server)


@pytest.fixture(scope="module")
def pair(artifacts, tmp_path_factory):
    both = Pair(artifacts(CASES[0]).parent, tmp_path_factory.mktemp("pair"))
    yield both
    both.close()


@pytest.fixture
def proxy(pair, tmp_path):
    with ProxyProcess(tmp_path / "proxy", pair.servers) as running:
        yield running


def answers_go_on(callers):
    answered = callers.answered
    wait_until(lambda: callers.answered > answered + 20)


@needs_proxy
def test_a_rolling_replacement_is_seen_by_no_client(pair, proxy):
    """As docs/reliability.md has it: out of the proxy's list, then the signal, then its successor into the list."""
    with Callers(proxy, MODEL, known_images(CASES[0]), each=3) as callers:
        answers_go_on(callers)
        old, other = pair.servers
        proxy.point_at([other])
        proxy.reload()
        assert pair.end(old) == 0
        answers_go_on(callers)
        pair.add()
        proxy.point_at(pair.servers)
        proxy.reload()
        answers_go_on(callers)
    assert callers.failures == {"grpc": [], "http": []}


@needs_proxy
def test_a_server_that_stops_unannounced_is_passed_over_for_http(pair, proxy):
    """What gRPC answers is not for a proxy to read, so those clients are told to ask again."""
    with Callers(proxy, MODEL, known_images(CASES[0]), each=3) as callers:
        answers_go_on(callers)
        assert pair.end(pair.servers[0]) == 0
        answers_go_on(callers)
    assert callers.failures["http"] == []
    assert [told for told in callers.failures["grpc"] if not re.search("OVERLOADED|UNAVAILABLE", told)] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_with_40_requests_in_flight_answers_all_of_them(pair, number):
    """A terminal that is closed is one too."""
    server, done = pair.servers[0], []
    image = tensor(tritonclient.grpc, CASES[0].images[0])
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for _ in range(40):
            client.async_infer(MODEL, [image], lambda result, error: done.append(error or result), parameters=LONG)
        wait_until(lambda: server.metric("ofa_requests_in_flight") == 40)
        assert pair.end(server, number) == 0
        wait_until(lambda: len(done) == 40)
    assert [answer for answer in done if isinstance(answer, Exception)] == []
    assert {len(answer.as_numpy("caption")[0, 0]) > 0 for answer in done} == {True}
