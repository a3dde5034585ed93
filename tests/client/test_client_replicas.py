"""Several addresses are replicas: asked in turn, left out while away; keys and headers go to each."""

from __future__ import annotations

from collections import Counter

import pytest
from ofa_client import Captioner, Retry, errors

from nonsense_servers import grpc_server, one_caption
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


@pytest.mark.parametrize("keep_alive", [0, 0.5, float("nan")])
def test_pings_in_no_time_are_refused(keep_alive):
    with pytest.raises(ValueError, match="keep_alive is at least 1 second"):
        Captioner("grpc://127.0.0.1", keep_alive=keep_alive)


def test_pings_do_no_harm(count):
    with grpc_server(count.named("a")) as url, Captioner(url, keep_alive=1) as captioner:
        assert captioner.caption(IMAGE).text == "a cat"
