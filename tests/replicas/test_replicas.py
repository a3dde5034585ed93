"""Two and three real servers behind the deployment's own proxy: balance, replacement and loss under load."""

import json
import os
import signal
import time

import pytest
from cases import CASES
from fleet import Fleet, calls_of, captions_by
from proxy_process import MISSING, NGINX, ProxyProcess
from serving_process import wait_until
from steady_load import SteadyLoad

pytestmark = [pytest.mark.server, pytest.mark.skipif(NGINX is None, reason=MISSING)]

CASE = CASES[0]
NAME = CASE.model_name


@pytest.fixture(scope="module")
def fleet(artifacts, tmp_path_factory):
    artifacts(CASE)
    with Fleet(artifacts.folder, NAME, tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture
def behind(tmp_path):
    """A function that puts servers behind a proxy, which ends with the test."""
    proxies = []

    def start(servers):
        proxy = ProxyProcess(tmp_path / "proxy", servers)
        proxies.append(proxy.__enter__())
        return proxy

    yield start
    for proxy in proxies:
        proxy.__exit__()


def load(url):
    return SteadyLoad(url, NAME, CASE.images)


def shares(servers, action):
    """Each server's share of the captions that were given during an action."""
    before = settled(servers)
    expected = action()
    wait_until(lambda: sum(map(captions_by, servers)) - sum(before) == expected)
    return [(captions_by(server) - count) / expected for server, count in zip(servers, before, strict=True)]


def settled(servers):
    """How many captions each has given, once what was counted before is shown as well."""
    counts = None
    while counts != (counts := [captions_by(server) for server in servers]):
        time.sleep(2.5)  # they publish each second, a starved one later
    return counts


def stages_of(servers, request_id):
    """Which stages' lines have the id, in the logs of the servers."""
    lines = [line for server in servers for line in server.log().splitlines(keepends=True)]
    records = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written
    return {record["message"] for record in records if record.get("request_id") == request_id}


@pytest.mark.parametrize(("count", "most"), [(2, 0.6), (3, 0.45)])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_one_clients_requests_are_spread_evenly(fleet, behind, protocol, count, most):
    servers = fleet.running(count)
    proxy = behind(servers)
    url = f"grpc://{proxy.grpc_url}" if protocol == "grpc" else proxy.http_url

    def send():
        with load(url) as requests:
            requests.wait_for(60)  # that a server which stands still for a moment does not decide
        assert set(requests.outcomes) == {"OK"}
        return requests.answered

    assert max(shares(servers, send)) <= most


def test_a_request_has_one_id_from_the_proxy_to_the_beam_search(fleet, behind):
    servers = fleet.running(2)
    proxy = behind(servers)
    with load(f"grpc://{proxy.grpc_url}") as requests:
        requests.wait_for(5)
    wait_until(lambda: len(calls_of(proxy)) == requests.answered)  # nginx notes a call once its answer is out
    for request_id in calls_of(proxy):
        wait_until(lambda request_id=request_id: stages_of(servers, request_id) == {"decoded", "searched", "answered"})


def test_a_server_is_drained_and_replaced_under_load_and_no_client_sees_an_error(fleet, behind):
    old, stays, new = fleet.running(3)
    proxy = behind([old, stays])
    with load(f"grpc://{proxy.grpc_url}") as requests:
        requests.wait_for(5)
        proxy.point_at([stays, new])
        proxy.reload()
        requests.wait_for(5)
        old.send_signal(signal.SIGTERM)
        requests.wait_for(10)
        assert old.wait() == 0
        requests.wait_for(5)
    fleet.gone(old)
    assert set(requests.outcomes) == {"OK"}


def test_a_killed_server_costs_retries_of_the_proxy_and_no_client_sees_an_error(fleet, behind):
    killed, stays = fleet.running(2)
    proxy = behind([killed, stays])
    with load(f"grpc://{proxy.grpc_url}") as requests:
        requests.wait_for(5)
        os.killpg(killed.server_pid, signal.SIGKILL)  # all at once, as the kernel ends a container
        os.kill(killed.pid, signal.SIGKILL)
        requests.wait_for(15)
    fleet.gone(killed)
    assert killed.wait() == -signal.SIGKILL
    assert set(requests.outcomes) == {"OK"}
    wait_until(lambda: len(calls_of(proxy)) >= requests.answered)
    assert any(len(upstreams) == 2 for upstreams in calls_of(proxy).values())
