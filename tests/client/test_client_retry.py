"""What is safe to try again is tried again, within the deadline; nothing else is."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from ofa_client import Captioner, Retry, errors

from nonsense_servers import JSON_CAPTION, InTurn, grpc_server, http_answer, http_server, one_caption, refuse

IMAGE = b"an image"
QUICK = Retry(first_pause=0.01, longest_pause=0.02)
RESTRICTED = "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"

TRANSIENT = [
    (grpc.StatusCode.UNAVAILABLE, "OVERLOADED: too many images are being captioned"),
    (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
    (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests"),
]
FINAL = [
    (grpc.StatusCode.UNAVAILABLE, RESTRICTED, errors.AccessRefusedError),
    (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_REFUSED: an API key is needed", errors.AccessRefusedError),
    (grpc.StatusCode.UNAVAILABLE, "DEADLINE_EXCEEDED: it took too long", errors.DeadlineExceededError),
    (grpc.StatusCode.INVALID_ARGUMENT, "TRUNCATED_IMAGE: it ends early", errors.TruncatedImageError),
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST: compressed", errors.InvalidRequestError),
    (grpc.StatusCode.NOT_FOUND, "no such model", errors.ModelNotFoundError),
    (grpc.StatusCode.UNIMPLEMENTED, "what is that", errors.UnexpectedResponseError),
]


def caption(url, retry=QUICK, **settings):
    with Captioner(url, retry=retry, **{"timeout": 120, **settings}) as captioner:
        return captioner.caption(IMAGE).text


@pytest.mark.parametrize(("status", "text"), TRANSIENT)
def test_a_full_or_missing_server_is_tried_again(status, text):
    behave = InTurn(refuse(status, text), refuse(status, text), one_caption)
    with grpc_server(behave) as url:
        assert caption(url) == "a cat"
    assert behave.requests == 3


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Service Unavailable"])
def test_so_is_a_proxy_that_is_full_or_alone(status):
    answers = InTurn(http_answer(status, "<html></html>"), http_answer("200 OK", JSON_CAPTION))
    with http_server(answers) as url:
        assert caption(url) == "a cat"
    assert answers.requests == 2


def test_a_connection_that_breaks_is_tried_again():
    answers = InTurn(b"", http_answer("200 OK", JSON_CAPTION))
    with http_server(answers) as url:
        assert caption(url) == "a cat"


@pytest.mark.parametrize(("status", "text", "kind"), FINAL)
def test_nothing_else_is_tried_again(status, text, kind):
    behave = InTurn(refuse(status, text), one_caption)
    with grpc_server(behave) as url, pytest.raises(kind):
        caption(url)
    assert behave.requests == 1


def test_nonsense_is_not_asked_for_twice():
    answers = InTurn(http_answer("200 OK", "[]"), http_answer("200 OK", JSON_CAPTION))
    with http_server(answers) as url, pytest.raises(errors.UnexpectedResponseError):
        caption(url)
    assert answers.requests == 1


def test_a_failure_inside_the_server_is_tried_once_more():
    behave = InTurn(refuse(grpc.StatusCode.INTERNAL, "INTERNAL: see 4711"))
    with grpc_server(behave) as url, pytest.raises(errors.InternalError):
        caption(url)
    assert behave.requests == 2


def test_a_full_server_before_it_does_not_count_as_that_try():
    full, failed = (
        refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full"),
        refuse(grpc.StatusCode.INTERNAL, "INTERNAL: see 4711"),
    )
    behave = InTurn(full, full, failed, one_caption)
    with grpc_server(behave) as url:
        assert caption(url) == "a cat"
    behave = InTurn(full, failed, full, failed, one_caption)
    with grpc_server(behave) as url, pytest.raises(errors.InternalError):
        caption(url)
    assert behave.requests == 4


def test_the_attempts_are_counted():
    behave = InTurn(refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full"))
    with grpc_server(behave) as url, pytest.raises(errors.OverloadedError):
        caption(url, Retry(attempts=4, first_pause=0.01, longest_pause=0.01))
    assert behave.requests == 4


def test_without_a_policy_there_is_one_attempt():
    behave = InTurn(refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full"), one_caption)
    with grpc_server(behave) as url, pytest.raises(errors.OverloadedError):
        caption(url, None)
    assert behave.requests == 1


def test_the_servers_own_hint_is_waited_for():
    behave = InTurn(refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full; try again in 1 s"), one_caption)
    begin = time.monotonic()
    with grpc_server(behave) as url:
        assert caption(url) == "a cat"
    assert time.monotonic() - begin >= 1


def test_a_pause_past_the_deadline_is_not_begun():
    behave = InTurn(refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full; try again in 300 s"), one_caption)
    with grpc_server(behave) as url, pytest.raises(errors.OverloadedError) as caught:
        caption(url, timeout=100)
    assert caught.value.retry_after == 300
    assert behave.requests == 1


def test_an_attempt_may_have_a_deadline_of_its_own():
    def slow(request, context):
        time.sleep(0.5)
        return one_caption(request, context)

    with grpc_server(slow) as url, pytest.raises(errors.DeadlineExceededError, match=r"within 0\.1 seconds"):
        caption(url, Retry(attempt_timeout=0.1))


def test_an_attempt_without_an_answer_is_followed_by_another():
    def silent(request, context):
        context.add_callback(given_up.set)
        given_up.wait(10)

    given_up = threading.Event()
    behave = InTurn(silent, one_caption)
    with grpc_server(behave) as url:
        assert caption(url, Retry(attempt_timeout=0.5)) == "a cat"


def test_a_server_that_refuses_for_the_deadline_is_told_an_earlier_one_and_not_asked_again():
    told = []

    def slow(request, context):
        told.append(request.parameters["timeout"].int64_param / 1e6)
        context.abort(grpc.StatusCode.UNAVAILABLE, "DEADLINE_EXCEEDED: the deadline passed")

    behave = InTurn(slow, one_caption)
    with grpc_server(behave) as url, pytest.raises(errors.DeadlineExceededError, match="the deadline passed"):
        caption(url, Retry(attempt_timeout=60))
    assert behave.requests == 1
    assert told == [59]


def test_pauses_grow_up_to_their_bound_and_are_random():
    policy = Retry(first_pause=1, longest_pause=5)
    full = errors.OverloadedError("full")
    for attempt, bound in ((1, 1), (2, 2), (3, 4), (4, 5), (99, 5)):
        pauses = [policy.pause(full, attempt) for _ in range(200)]
        assert 0 <= min(pauses) < bound / 4
        assert bound * 3 / 4 < max(pauses) <= bound


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"first_pause": -1}, {"first_pause": 9, "longest_pause": 1}, {"attempt_timeout": 0}]
)
def test_a_policy_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match=r"attempt|pauses"):
        Retry(**settings)


def test_patience_ends_the_attempts():
    behave = InTurn(refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full; try again in 1 s"))
    with grpc_server(behave) as url, pytest.raises(errors.OverloadedError):
        caption(url, Retry(attempts=1000, patience=1.5), timeout=60)
    assert behave.requests == 2
