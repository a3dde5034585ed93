"""Who stops waiting frees what was in work for him: deadlines, cancels and lost connections reach the beam search."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from cases import CASES
from serving_process import wait_until
from tritonclient.utils import InferenceServerException

MODEL = CASES[0].model_name
LONG = {"beam_size": 16, "max_length": 128, "min_length": 128, "no_repeat_ngram_size": 0}
IMAGES = 16
"""So many images at these settings are searched for many seconds, in steps that are far shorter than one."""

STEPS = LONG["max_length"] + 1
"""Those of such a search that comes to its end, of however many images; one that is cut short has fewer."""


@pytest.fixture(autouse=True)
def unharmed(server):
    """Each test finds an idle server, and leaves one that captions."""
    idle(server)
    yield
    idle(server)
    assert ask(server)["caption"][0, 0].decode() == CASES[0].record["captions"][0][0]


def tensor(protocol, images=1):
    image = protocol.InferInput("image", [images, 1], "BYTES")
    image.set_data_from_numpy(np.array([[CASES[0].images[0]]] * images, dtype=np.object_))
    return image


def ask(server, images=1, *, http=False, **arguments):
    protocol = tritonclient.http if http else tritonclient.grpc
    url = server.http_url.removeprefix("http://") if http else server.grpc_url
    with protocol.InferenceServerClient(url) as client:
        answer = client.infer(MODEL, [tensor(protocol, images)], **arguments)
        return {"caption": answer.as_numpy("caption")}


def late(server, *, seconds, images=IMAGES, http=False, codes=("DEADLINE_EXCEEDED",)):
    """How long it took until a long search was refused, given so many seconds."""
    began = time.monotonic()
    with pytest.raises(InferenceServerException) as refused:
        ask(server, images, http=http, timeout=int(seconds * 1e6), parameters=LONG)
    assert refused.value.message().partition(": ")[0] in codes
    assert refused.value.status() in {"503", "StatusCode.UNAVAILABLE"}
    return time.monotonic() - began


def searching(server):
    return server.metric("ofa_captions_searching")


def steps(server):
    return server.metric("ofa_search_steps_total")


def lapsed(server):
    """How many requests were given up so far."""
    return sum(server.metric("ofa_requests_total", code=code) for code in ("DEADLINE_EXCEEDED", "CANCELLED"))


def idle(server):
    wait_until(lambda: server.metric("ofa_requests_in_flight") == 0 and searching(server) == 0)


@pytest.fixture
def freed(server, unharmed):
    """A function that waits until the rows of the search are free, and sees by its steps that it was cut short.

    How long that took says as much of the machine.
    """
    time.sleep(1.5)  # until those of other tests are shown
    before = steps(server)

    def check():
        idle(server)
        time.sleep(0.2)  # they are shown one after the other
        assert steps(server) - before < STEPS

    return check


def start(server, count=1, images=IMAGES, **arguments):
    """Long searches under way over one gRPC connection, and what cancels each."""
    client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    image = tensor(tritonclient.grpc, images)
    calls = [
        client.async_infer(MODEL, [image], lambda result, error: None, parameters=LONG, **arguments)
        for _ in range(count)
    ]
    return client, calls


@pytest.mark.parametrize("http", [False, True], ids=["grpc", "http"])
def test_a_deadline_that_passes_mid_beam_is_told_in_time_and_frees_the_rows(server, freed, http):
    assert late(server, seconds=0.3, http=http) >= 0.3
    freed()


@pytest.mark.parametrize(("others", "images"), [(3, IMAGES), (48, 1)], ids=["of the search", "of the stages"])
def test_a_deadline_that_passes_in_the_queue_is_told_in_time(server, others, images):
    client, calls = start(server, others, images)
    wait_until(lambda: server.metric("ofa_requests_in_flight") == others)
    # A server that knows its pace need not wait for the deadline to say that it will pass.
    late(server, seconds=0.3, images=1, codes=("DEADLINE_EXCEEDED", "OVERLOADED"))
    # In time: those before it are still there.
    wait_until(lambda: server.metric("ofa_requests_in_flight") == others, 10)
    for call in calls:
        call.cancel()
    client.close()


def test_a_deadline_in_the_past_is_refused(server, freed):
    late(server, seconds=1e-6)
    freed()


def test_a_grpc_cancel_mid_beam_frees_the_rows(server, freed):
    client, (call,) = start(server)
    wait_until(lambda: searching(server) == IMAGES)
    call.cancel()
    freed()
    client.close()


def test_a_grpc_client_that_is_lost_frees_the_rows(server, freed):
    client, _ = start(server)
    wait_until(lambda: searching(server) == IMAGES)
    client.close()
    freed()


def test_a_grpc_deadline_of_the_clients_own_frees_the_rows(server, freed):
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        ask(server, IMAGES, client_timeout=0.3, parameters=LONG)
    freed()


def test_cancelled_requests_in_the_queue_make_room_for_others(server, freed):
    client, calls = start(server, 4)
    wait_until(lambda: server.metric("ofa_requests_in_flight") == 4)
    with pytest.raises(InferenceServerException, match="OVERLOADED"):
        ask(server)
    for call in calls:
        call.cancel()
    wait_until(lambda: server.metric("ofa_requests_in_flight") < 4)
    assert ask(server)["caption"].size == 1
    freed()
    client.close()


def test_an_http_disconnect_is_freed_by_the_deadline(server, freed):
    with tritonclient.http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        body, length = client.generate_request_body(
            [tensor(tritonclient.http, IMAGES)], timeout=2_000_000, parameters=LONG
        )
    before = lapsed(server)
    host, port = server.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
            f"Inference-Header-Content-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        wait_until(lambda: server.metric("ofa_requests_in_flight") == 1 or lapsed(server) > before)
    wait_until(lambda: lapsed(server) > before)
    freed()


def test_cancels_and_deadlines_at_random_harm_neither_the_server_nor_the_others(server):
    rng = np.random.default_rng(0)
    known = CASES[0].record["captions"][0][0]

    def patient(_):
        return ask(server)["caption"][0, 0].decode()

    def impatient(seconds):
        client, (call,) = start(server, images=1, timeout=int(2 * seconds * 1e6))
        time.sleep(seconds)
        call.cancel()
        client.close()

    with ThreadPoolExecutor(12) as pool:
        gone = [pool.submit(impatient, seconds) for seconds in rng.uniform(0.001, 0.3, 60)]
        answers = list(pool.map(patient, range(20)))
        for future in gone:
            future.result()
    assert answers == [known] * 20


@pytest.mark.parametrize("slot", [-1, 10**6, "1"])
def test_a_slot_that_is_none_is_refused_by_the_search_itself(server, slot):
    with pytest.raises(InferenceServerException, match="INVALID_PARAMETER: cancel_slot"):
        search(server, cancel_slot=slot, stage_key=key_of(server))


@pytest.mark.parametrize("key", [{}, {"stage_key": ""}, {"stage_key": "0" * 32}, {"stage_key": 1}])
def test_a_client_that_calls_the_stages_by_their_names_is_refused(server, key):
    with pytest.raises(InferenceServerException, match="INVALID_PARAMETER: this model is not for clients"):
        search(server, **key)
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="INVALID_PARAMETER: this model is not for clients"),
    ):
        client.infer(f"{MODEL}_preprocess", [tensor(tritonclient.grpc)], parameters=key)


def search(server, **parameters):
    """A call to the beam search itself."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        config = client.get_model_config(f"{MODEL}_beam_search").config
        shape = [1, *config.input[0].dims]
        hidden = tritonclient.grpc.InferInput("hidden", shape, "FP32")
        hidden.set_data_from_numpy(np.zeros(shape, np.float32))
        client.infer(f"{MODEL}_beam_search", [hidden], parameters=parameters)


def key_of(server):
    """What the launcher gave this run of its server; nobody but root and its user can read it."""
    variables = Path(f"/proc/{server.server_pid}/environ").read_bytes().decode().split("\0")
    return next(variable for variable in variables if variable.startswith("OFA_STAGE_KEY=")).partition("=")[2]
