"""Each code word of the contract is one exception class, over both protocols; so is each refusal of Triton's own."""

from __future__ import annotations

import pickle

import ofa_client
import pytest
from ofa_client import Captioner, CaptionServiceError, contract, errors

from patience import eventually

CLIENT_ERRORS = {name for name in ofa_client.__all__ if name.endswith("Error")}


@pytest.mark.parametrize(("code", "kind"), errors.SERVER_ERRORS.items())
def test_a_code_word_raises_its_class(captioner, script, code, kind):
    with pytest.raises(CaptionServiceError) as caught:
        captioner.caption(script(error=f"{code}: what the server said"))
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message) == (code, "what the server said")
    assert str(error) == f"{code}: what the server said. {kind.advice}"


def test_the_next_request_works_after_an_error(captioner, script):
    with pytest.raises(ofa_client.EmptyImageError):
        captioner.caption(script(error="EMPTY_IMAGE: no bytes"))
    assert captioner.caption(script(captions=["a cat"])).text == "a cat"


def test_a_message_of_several_lines_becomes_one(captioner, script):
    with pytest.raises(ofa_client.InternalError) as caught:
        captioner.caption(script(error="something\n  broke", status="INTERNAL"))
    assert caught.value.message == "something broke"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INTERNAL", errors.InternalError),
        ("UNAVAILABLE", errors.ServiceUnavailableError),
        ("NOT_FOUND", errors.ModelNotFoundError),
        ("INVALID_ARG", errors.UnexpectedResponseError),
    ],
)
def test_a_refusal_without_a_code_word_is_judged_by_its_status(captioner, script, status, kind):
    with pytest.raises(kind, match="no code word here"):
        captioner.caption(script(error="no code word here", status=status))


def test_an_unknown_model_is_named(url):
    with Captioner(url, model="nothing") as captioner, pytest.raises(errors.ModelNotFoundError, match="nothing"):
        captioner.caption(b"an image")


def test_tritons_own_full_queue_is_overload(url):
    with Captioner(url, model="narrow", retry=None) as captioner:
        refused = []
        eventually(lambda: refused.extend(_refusals(captioner, 12)) or refused)  # slow threads may come one by one
    assert {type(error) for error in refused} == {errors.OverloadedError}
    assert all("queue size" in str(error) for error in refused)


def _refusals(captioner, n):
    """Ask so many times at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n) as pool:
        asked = [pool.submit(captioner.caption, b"an image") for _ in range(n)]
    return [future.exception() for future in asked if future.exception()]


@pytest.mark.parametrize("name", sorted(CLIENT_ERRORS))
def test_errors_say_what_to_do_and_travel_between_processes(name):
    kind = getattr(ofa_client, name)
    error = kind("it happened.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == f"{kind.code}: it happened. {kind.advice}".rstrip()
    assert kind.advice or kind is CaptionServiceError


def test_every_class_has_a_code_of_its_own():
    assert len({getattr(ofa_client, name).code for name in CLIENT_ERRORS}) == len(CLIENT_ERRORS)


def test_client_and_server_know_the_same_contract():
    server = pytest.importorskip("ofa_serving.contract", reason="the server's library is another distribution")

    assert set(errors.SERVER_ERRORS) == {code.value for code in server.Code}
    assert contract.MODEL == server.DEFAULT_NAME
    assert contract.STAGES == server.STAGES
    kinds = {name: known.kind for name, known in server.PARAMETERS.items()}
    assert {name for name, kind in kinds.items() if kind is int} == set(contract.INTEGER_PARAMETERS)
    assert {name for name, kind in kinds.items() if kind is float} == set(contract.DECIMAL_PARAMETERS)
    for name in ("IMAGE", "CAPTION", "SCORE", "TOKENS", "TOKEN_LOGPROBS", "TIMING"):
        assert getattr(contract, name) == server.Tensor[name].value
