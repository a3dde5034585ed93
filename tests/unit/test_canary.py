"""The known image: what its check makes of a server's refusals."""

import threading
import time
from itertools import count, repeat
from types import SimpleNamespace

import grpc
import pytest
from nonsense_servers import grpc_server, http_answer, http_server, one_caption
from ofa_serving.launcher import server_metrics
from ofa_serving.launcher.canary import Busy, Canary, Late, WrongCaption
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.server import Server

CANARY = Canary("ofa_caption", b"an image", {}, ("a cat",))
PATIENCE = 60
"""Seconds, for what is there at once unless the machine stands still."""


@pytest.fixture(autouse=True)
def patient_scrapes(monkeypatch):
    monkeypatch.setattr(server_metrics, "_TIMEOUT", PATIENCE)


def refusal(message):
    with (
        grpc_server(lambda _request, context: context.abort(grpc.StatusCode.UNAVAILABLE, message)) as url,
        pytest.raises(LaunchError) as refused,
    ):
        CANARY.check(url.removeprefix("grpc://"), PATIENCE)
    assert str(refused.value) == f"ofa_caption could not caption its known image: {message}"
    return refused.value


def test_a_server_that_has_no_room_is_busy():
    assert isinstance(refusal("OVERLOADED: too many images are being captioned; try again in 1 s"), Busy)


def test_any_other_refusal_is_a_failure():
    assert type(refusal("INTERNAL: error 17")) is LaunchError


def test_a_deadline_that_passed_is_late():
    assert isinstance(refusal("DEADLINE_EXCEEDED: the deadline passed before the caption was complete"), Late)


def test_what_is_kept_is_what_is_loaded(tmp_path):
    canary = Canary("ofa_caption", b"an image", {"beam_size": 3}, ("a cat", "猫"))
    canary.keep(tmp_path / "kept")
    assert Canary.load(tmp_path / "kept", "ofa_caption") == canary


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"cannot write .*file/kept .*; choose another place with --run-folder"):
        CANARY.keep(tmp_path / "file/kept")


def test_another_caption_is_wrong():
    with grpc_server(one_caption) as url, pytest.raises(WrongCaption):
        Canary("ofa_caption", b"an image", {}, ("a dog",)).check(url.removeprefix("grpc://"), PATIENCE)


def test_a_stop_ends_the_wait_and_cancels_the_request():
    stopping, cancelled = threading.Event(), threading.Event()

    def hang(request, context):
        context.add_callback(cancelled.set)
        stopping.set()
        cancelled.wait(PATIENCE)
        return one_caption(request, context)

    with grpc_server(hang) as url:
        with pytest.raises(LaunchError, match="was stopped before"):
            CANARY.check(url.removeprefix("grpc://"), PATIENCE, stopping)
        assert cancelled.wait(PATIENCE / 2)  # before the server's own end, or the request's, would cancel it


def captioned_at_last(behave, captions):
    """Whether a server gets through its known image that counts so many captions, one scrape after the other."""

    def metrics():
        return http_answer("200 OK", f'ofa_requests_total{{code="OK",model="ofa_caption"}} {next(captions)}\n')

    with grpc_server(behave) as url, http_server(metrics) as metrics_url:
        server = Server.__new__(Server)
        server.plan = SimpleNamespace(endpoints=SimpleNamespace(grpc=url.removeprefix("grpc://"), metrics=metrics_url))
        server.check_running = lambda: None
        canary = Canary("ofa_caption", b"an image", {}, ("a cat",))
        return server._captions(canary, time.monotonic() + PATIENCE, threading.Event()) and server.known_seconds > 0


FULL = grpc.StatusCode.UNAVAILABLE, "OVERLOADED: too many images are being captioned"
LATE = grpc.StatusCode.UNAVAILABLE, "DEADLINE_EXCEEDED: the deadline passed before the caption was complete"


@pytest.mark.parametrize("refusal", [FULL, LATE], ids=["full", "late"])
def test_a_server_that_has_just_come_may_be_busy_with_others_for_a_while(refusal):
    def busy_twice(request, context):
        if tries.append(request) or len(tries) < 3:
            context.abort(*refusal)
        return one_caption(request, context)

    tries = []
    assert captioned_at_last(busy_twice, count())
    assert len(tries) == 3


def test_one_that_is_late_for_everybody_is_broken():
    def late(request, context):
        context.abort(*LATE)

    with pytest.raises(Late):
        captioned_at_last(late, repeat(7))
