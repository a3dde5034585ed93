"""Several addresses are replicas: asked in turn, left out while away; keys and headers go to each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import grpc
import pytest
from ofa_client import AsyncCaptioner, Captioner, Retry, errors, replicas

from nonsense_servers import InTurn, grpc_server, http_server, one_caption, refuse
from patience import eventually

IMAGE = b"an image"


@pytest.fixture
def count():
    """A behaviour that counts its requests under a name, and keeps their metadata."""
    counter = Counter()

    def named(name):
        def behave(request, context):
            counter[name] += 1
            counter.metadata = dict(context.invocation_metadata())
            return one_caption(request, context)

        return behave

    counter.named = named
    return counter


def test_replicas_get_requests_in_turn(count):
    with grpc_server(count.named("a")) as a, grpc_server(count.named("b")) as b, Captioner([a, b]) as captioner:
        for _ in range(10):
            captioner.caption(IMAGE)
    assert count == {"a": 5, "b": 5}


def test_a_name_with_several_addresses_is_balanced_by_grpc(count):
    """What a headless Kubernetes service is: gRPC's own round robin, here over a list of addresses."""
    with grpc_server(count.named("a")) as a, grpc_server(count.named("b")) as b:
        addresses = ",".join(url.replace("grpc://", "") for url in (a, b))
        captioner = Captioner("grpc://replaced")
        captioner._captioner._endpoints = [type(captioner._captioner._endpoints[0])("grpc", f"ipv4:{addresses}")]
        with captioner:
            eventually(lambda: captioner.caption(IMAGE) and len(count) == 2)  # both are connected
            count.clear()
            for _ in range(50):
                captioner.caption(IMAGE)
    assert min(count.values()) >= 20


def test_a_replica_that_is_away_costs_no_request(count, closed_port):
    away = f"grpc://127.0.0.1:{closed_port}"
    with grpc_server(count.named("there")) as there, Captioner([away, there]) as captioner:
        for _ in range(10):
            assert captioner.caption(IMAGE).text == "a cat"
    assert count == {"there": 10}


def test_a_replica_that_comes_back_is_used_again(count):
    with grpc_server(count.named("a")) as a, Captioner([a], retry=None) as captioner:
        port = int(a.rpartition(":")[2])
        captioner.caption(IMAGE)
    with grpc_server(count.named("b")) as b, Captioner([a, b], retry=Retry(attempts=3)) as captioner:
        captioner.caption(IMAGE)
        with grpc_server(count.named("a again"), port=port):
            eventually(lambda: captioner.caption(IMAGE) and count["a again"])


def test_when_all_are_away_the_error_says_so(closed_port):
    urls = [f"grpc://127.0.0.1:{closed_port}", f"http://127.0.0.1:{closed_port}"]
    with Captioner(urls) as captioner, pytest.raises(errors.ServiceUnavailableError):
        captioner.caption(IMAGE)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_replica_that_is_silent_costs_one_request(count, scheme):
    with (
        http_server(None) as silent,
        grpc_server(count.named("there")) as there,
        Captioner([silent.replace("http", scheme), there], timeout=5) as captioner,
    ):
        with pytest.raises(errors.DeadlineExceededError):
            captioner.caption(IMAGE)
        for _ in range(5):
            assert captioner.caption(IMAGE).text == "a cat"
            time.sleep(0.3)
    assert count == {"there": 5}


def full(hint):
    return refuse(grpc.StatusCode.UNAVAILABLE, f"OVERLOADED: full{hint}")


@pytest.mark.parametrize("retry", [None, Retry()])
def test_a_replica_that_is_full_costs_no_request(count, retry):
    busy = InTurn(full("; try again in 26 s"))
    with (
        grpc_server(busy) as a,
        grpc_server(count.named("idle")) as b,
        Captioner([a, b], timeout=20, retry=retry) as captioner,
    ):
        for _ in range(5):
            assert captioner.caption(IMAGE).text == "a cat"
    assert count == {"idle": 5}
    assert busy.requests == 1


def test_a_replica_that_was_full_is_asked_again_when_it_said_so(count):
    busy = InTurn(full("; try again in 0.5 s"), count.named("a"))
    with grpc_server(busy) as a, grpc_server(count.named("b")) as b, Captioner([a, b], retry=None) as captioner:
        eventually(lambda: captioner.caption(IMAGE) and count["a"])
    assert busy.requests == count["a"] + 1


def test_when_all_are_full_each_is_asked_once_and_the_shortest_hint_counts():
    replicas = [InTurn(full(hint)) for hint in ("; try again in 26 s", "; try again in 0.5 s", "")]
    with (
        grpc_server(replicas[0]) as a,
        grpc_server(replicas[1]) as b,
        grpc_server(replicas[2]) as c,
        Captioner([a, b, c], retry=None) as captioner,
        pytest.raises(errors.OverloadedError) as caught,
    ):
        captioner.caption(IMAGE)
    assert caught.value.retry_after == 0.5
    assert [replica.requests for replica in replicas] == [1, 1, 1]


def test_a_full_replica_is_asked_before_one_that_is_away(closed_port):
    """Its answer says when to come again, which an absent one cannot."""
    busy = InTurn(full("; try again in 26 s"), one_caption)
    retry = Retry(first_pause=0.01, longest_pause=0.01)
    with grpc_server(busy) as url, Captioner([f"grpc://127.0.0.1:{closed_port}", url], retry=retry) as captioner:
        with pytest.raises(errors.OverloadedError):
            captioner.caption(IMAGE, timeout=10)
        assert captioner.caption(IMAGE, timeout=10).text == "a cat"


FAULTS = [
    (grpc.StatusCode.INTERNAL, errors.InternalError),
    (grpc.StatusCode.UNIMPLEMENTED, errors.UnexpectedResponseError),
    (grpc.StatusCode.NOT_FOUND, errors.ModelNotFoundError),
    (grpc.StatusCode.UNAUTHENTICATED, errors.AccessRefusedError),
]


@pytest.mark.parametrize("status", [status for status, _ in FAULTS])
def test_a_replica_that_is_broken_costs_no_request(count, status, monkeypatch):
    monkeypatch.setattr(replicas, "AWAY_SECONDS", 1000.0)
    broken = InTurn(refuse(status, "it is broken"))
    with (
        grpc_server(broken) as a,
        grpc_server(count.named("there")) as b,
        Captioner([a, b], timeout=20, retry=None) as captioner,
    ):
        for _ in range(40):
            assert captioner.caption(IMAGE).text == "a cat"
    assert count == {"there": 40}
    assert broken.requests == 3  # then it gets none for a while


@pytest.mark.parametrize(("status", "kind"), FAULTS)
def test_when_all_are_broken_each_is_asked_once_and_the_error_says_so(status, kind):
    replicas = [InTurn(refuse(status, "it is broken")) for _ in range(3)]
    with (
        grpc_server(replicas[0]) as a,
        grpc_server(replicas[1]) as b,
        grpc_server(replicas[2]) as c,
        Captioner([a, b, c], retry=None) as captioner,
        pytest.raises(kind, match="it is broken"),
    ):
        captioner.caption(IMAGE)
    assert [replica.requests for replica in replicas] == [1, 1, 1]


def test_a_replica_that_may_come_again_is_not_given_up_for_one_that_is_broken(closed_port):
    """Nothing ends a run then that waits for the one that is away, or full."""
    away, no = f"grpc://127.0.0.1:{closed_port}", refuse(grpc.StatusCode.UNAUTHENTICATED, "no")
    with grpc_server(no) as broken, grpc_server(full("; try again in 26 s")) as busy:
        for other, kind in ((away, errors.ServiceUnavailableError), (busy, errors.OverloadedError)):
            with Captioner([other, broken], retry=None) as captioner:
                for _ in range(3):
                    with pytest.raises(kind):
                        captioner.caption(IMAGE)


def test_the_next_replica_gets_what_is_left_of_the_timeout():
    left = []

    def slow_to_refuse(request, context):
        time.sleep(0.5)
        return full("")(request, context)

    def idle(request, context):
        left.append(context.time_remaining())
        return one_caption(request, context)

    with grpc_server(slow_to_refuse) as a, grpc_server(idle) as b, Captioner([a, b], timeout=90) as captioner:
        captioner.caption(IMAGE)
    assert 45 < left[0] < 89.5


def test_a_request_that_waits_for_its_next_try_opens_no_connection_after_the_close(count):
    behave = InTurn(full("; try again in 4 s"), count.named("after the close"))

    async def main(url):
        async with AsyncCaptioner(url, timeout=300) as captioner:
            waiting = asyncio.ensure_future(captioner.caption(IMAGE))
            while not behave.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
        with pytest.raises(RuntimeError, match="this captioner is closed"):
            await waiting

    with grpc_server(behave) as url:
        asyncio.run(main(url))
    assert not count


def test_no_address_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Captioner([])


def test_the_key_and_the_headers_travel(count):
    secrets = {"api_key": "s3cret", "headers": {"X-Tenant": "blue"}}
    with grpc_server(count.named("a")) as url, Captioner(url, **secrets) as captioner:
        captioner.caption(IMAGE)
    assert count.metadata["authorization"] == "Bearer s3cret"
    assert count.metadata["x-tenant"] == "blue"


def test_a_header_cannot_smuggle_another():
    with pytest.raises(ValueError, match="one line of ASCII") as caught:
        Captioner("http://127.0.0.1", api_key="s3cret\r\nX-Admin: yes")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["x-ü", "x-²", "x_y", "x-trace-bin", "-x\n", ""])
def test_a_header_that_grpc_takes_for_none_is_refused_at_once(name):
    with pytest.raises(ValueError, match="must be one line of ASCII"):
        Captioner("grpc://127.0.0.1", headers={name: "1"})


def test_a_proxy_of_the_environment_is_not_used(count, closed_port, monkeypatch):
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with grpc_server(count.named("a")) as url, Captioner(url, retry=None) as captioner:
        assert captioner.caption(IMAGE).text == "a cat"


@pytest.mark.parametrize("keep_alive", [0, 0.5, float("nan")])
def test_pings_in_no_time_are_refused(keep_alive):
    with pytest.raises(ValueError, match="keep_alive is at least 1 second"):
        Captioner("grpc://127.0.0.1", keep_alive=keep_alive)


def test_pings_do_no_harm(count):
    with grpc_server(count.named("a")) as url, Captioner(url, keep_alive=1) as captioner:
        assert captioner.caption(IMAGE).text == "a cat"
