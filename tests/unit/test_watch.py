"""A server that is up, but gives its known image nothing or something else, with and without captions for others."""

import threading
import time
from contextlib import contextmanager
from itertools import count, repeat
from types import SimpleNamespace

import pytest
from nonsense_servers import grpc_server, http_answer, http_server, one_caption
from ofa_serving.launcher import probe, server_metrics
from ofa_serving.launcher.canary import Canary, Late, WrongCaption, kept_folder
from ofa_serving.launcher.endpoints import Endpoints
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import Ports
from ofa_serving.launcher.watch import Watch
from serving_process import wait_until

MODEL = "ofa_caption"
RIGHT, OTHER = Canary(MODEL, b"an image", {}, ("a cat",)), Canary(MODEL, b"an image", {}, ("a dog",))
TIMEOUT = 0.3
PATIENCE = 60
"""Seconds, for what comes about at once unless the machine stands still."""

OKS = 'ofa_requests_total{{code="OK",model="{model}"}} {count}\n'


@pytest.fixture(autouse=True)
def patient_scrapes(monkeypatch):
    monkeypatch.setattr(server_metrics, "_TIMEOUT", PATIENCE)


def late(request, context):
    time.sleep(2 * TIMEOUT)
    return one_caption(request, context)


class Counted:
    """A behaviour, and how often it was asked for."""

    def __init__(self, behave):
        self.behave, self.asked = behave, 0

    def __call__(self, *arguments):
        self.asked += 1
        return self.behave(*arguments)


@contextmanager
def serving(behave, captions, model=MODEL):
    """A server that counts so many captions of ``model``, one scrape after the other."""
    counts = iter(captions)

    def metrics():
        return http_answer("200 OK", OKS.format(model=model, count=next(counts)))

    with grpc_server(behave) as grpc_url, http_server(metrics) as metrics_url:
        grpc_port, metrics_port = (int(url.rpartition(":")[2]) for url in (grpc_url, metrics_url))
        yield Endpoints("127.0.0.1", Ports(0, grpc_port, metrics_port))


def watched(endpoints, canary, enough=lambda: False, known_seconds=0.0, timeout=PATIENCE):
    """Watches until it fails or that is enough."""
    settings = SimpleNamespace(canary_interval=0.1, canary_timeout=timeout)
    watch = Watch(
        SimpleNamespace(
            plan=SimpleNamespace(settings=settings, endpoints=endpoints, canaries=[canary], artifacts=[]),
            model_processes=SimpleNamespace(failure=None, wait=time.sleep),
            check_running=lambda: None,
            metric=lambda name: 0,
            known_seconds=known_seconds,
        )
    )

    def check():
        watch.check()
        return enough()

    try:
        wait_until(check, PATIENCE)
    finally:
        watch.close()


def test_wrong_captions_under_load_are_a_failure():
    with serving(one_caption, count()) as endpoints, pytest.raises(WrongCaption, match="'a cat', not 'a dog'"):
        watched(endpoints, OTHER)


def test_a_late_caption_while_others_get_theirs_is_none():
    server = Counted(late)
    with serving(server, count()) as endpoints:
        watched(endpoints, RIGHT, lambda: server.asked > 3, timeout=TIMEOUT)


def test_a_model_that_was_slow_from_the_start_has_the_time_it_needs():
    server = Counted(late)
    with serving(server, repeat(7)) as endpoints:
        watched(endpoints, RIGHT, lambda: server.asked > 3, known_seconds=PATIENCE, timeout=TIMEOUT)


@pytest.mark.parametrize(("model", "captions"), [(MODEL, repeat(7)), ("another", count())])
def test_a_late_caption_is_a_failure_if_the_model_gives_none_to_others(model, captions):
    with serving(late, captions, model) as endpoints, pytest.raises(Late):
        watched(endpoints, RIGHT, timeout=TIMEOUT)


def test_a_server_that_cannot_be_reached_is_a_failure_whatever_it_counts():
    with serving(one_caption, count()) as endpoints, pytest.raises(LaunchError, match="could not caption"):
        watched(Endpoints(endpoints.host, Ports(0, 1, endpoints.ports.metrics)), RIGHT)


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """A function that gives the probe's exit code for a server whose launcher kept a known image."""

    def run(endpoints, canary=RIGHT, seconds=PATIENCE):
        monkeypatch.setattr(probe, "_SECONDS", seconds)
        if canary is not None:
            canary.keep(kept_folder(tmp_path / "run", endpoints.ports.grpc, MODEL))
        ports = [f"--grpc-port={endpoints.ports.grpc}", f"--metrics-port={endpoints.ports.metrics}"]
        return probe.main([MODEL, f"--artifacts={tmp_path}", f"--run-folder={tmp_path / 'run'}", *ports])

    return run


def test_the_probe_passes_on_a_late_caption_while_others_get_theirs(probed, caplog):
    caplog.set_level("INFO")
    with serving(late, count()) as endpoints:
        assert probed(endpoints, seconds=TIMEOUT) == 0
    assert "ofa_caption is busy" in caplog.text


def test_the_probe_fails_on_a_late_caption_if_nobody_gets_one(probed):
    with serving(late, [7, 7]) as endpoints:
        assert probed(endpoints, seconds=TIMEOUT) == 1


def test_the_probe_fails_on_a_wrong_caption_whatever_others_get(probed):
    with serving(one_caption, count()) as endpoints:
        assert probed(endpoints, OTHER) == 1


def test_the_probe_asks_for_what_the_server_was_started_with_whatever_is_built_meanwhile(probed, tmp_path):
    OTHER.keep(tmp_path / MODEL / "canary")
    with serving(one_caption, count()) as endpoints:
        assert probed(endpoints) == 0
        RIGHT.keep(tmp_path / MODEL / "canary")
        assert probed(endpoints, OTHER) == 1


def test_the_probe_says_that_no_server_was_started(probed, caplog):
    with serving(one_caption, count()) as endpoints:
        assert probed(endpoints, canary=None) == 1
    assert f"no server of {MODEL} was started here at gRPC port {endpoints.ports.grpc}" in caplog.text


def test_the_probe_tries_its_models_at_the_same_time(tmp_path, monkeypatch):
    all_of_them = threading.Barrier(3)
    monkeypatch.setattr(probe, "_try", lambda name, settings: all_of_them.wait(PATIENCE))
    assert probe.main(["one", "two", "three", f"--artifacts={tmp_path}"]) == 0
