"""A running server logs each request at every stage under one id, and sends a trace of it to a collector."""

import json
import time

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from cases import CASES
from serving_process import ServerProcess, wait_until
from tritonclient.utils import InferenceServerException

trace_collector = pytest.importorskip("trace_collector", reason="needs the extra 'tracing'")

pytestmark = pytest.mark.server

CASE = CASES[0]
PUBLIC = CASE.model_name
STEM = PUBLIC.removesuffix("_caption")
BEAM_SIZE = 3
TRACE, GRPC_TRACE = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector():
    with trace_collector.TraceCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def talkative(artifacts, tmp_path_factory, collector):
    """A server that logs all as JSON, traces every request and caches what it encodes.

    It has answered two good requests for the same image, and a bad one.
    """
    artifacts(CASE)
    flags = [
        "--log-format=json",
        "--request-log=all",
        f"--trace-url={collector.url}",
        "--trace-every=1",
        "--cache-mib=32",
        "--canary-interval=600",  # the known image is traced and encoded once too
    ]
    with ServerProcess(artifacts.folder, [PUBLIC], tmp_path_factory.mktemp("talkative"), flags) as server:
        headers = {"X-Request-Id": "proxy-http", "Traceparent": f"00-{TRACE}-{CALLER}-01"}
        ask(server, tritonclient.http, headers, CASE.images[0], beam_size=BEAM_SIZE)
        headers = {"x-request-id": "proxy-grpc", "traceparent": f"00-{GRPC_TRACE}-{CALLER}-01"}
        ask(server, tritonclient.grpc, headers, CASE.images[0])
        with pytest.raises(InferenceServerException, match="UNSUPPORTED_FORMAT"):
            ask(server, tritonclient.grpc, {}, b"no image", request_id="the-clients-own")
        yield server


def ask(server, protocol, headers, image, request_id="", **parameters):
    url = server.grpc_url if protocol is tritonclient.grpc else server.http_url.removeprefix("http://")
    tensor = protocol.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
    with protocol.InferenceServerClient(url) as client:
        client.infer(PUBLIC, [tensor], headers=headers, request_id=request_id, parameters=parameters)


def lines(server):
    """The log, an object a line; a line that is not JSON fails the test."""
    return [json.loads(line) for line in server.log().splitlines()]


def of_request(server, request_id, count):
    """Its lines by message, once there are so many."""

    def found():
        return {line["message"]: line for line in lines(server) if line.get("request_id") == request_id}

    wait_until(lambda: len(found()) >= count)
    return found()


@pytest.mark.parametrize("request_id", ["proxy-http", "proxy-grpc"])
def test_a_proxys_id_is_on_the_line_of_every_stage(talkative, request_id):
    found = of_request(talkative, request_id, 3)
    assert {message: line["model"] for message, line in found.items()} == {
        "decoded": f"{STEM}_preprocess",
        "searched": f"{STEM}_beam_search",
        "answered": PUBLIC,
    }
    assert found["answered"]["code"] == "OK"
    assert found["answered"]["bytes"] == len(CASE.images[0])
    assert found["answered"]["stage_ms"]["search"] == pytest.approx(found["searched"]["milliseconds"], abs=0.2)


def test_a_refusal_is_logged_with_the_clients_id_and_the_reason(talkative):
    line = of_request(talkative, "the-clients-own", 1)["answered"]
    assert line["code"] == "UNSUPPORTED_FORMAT"
    assert line["reason"]


def test_every_line_of_the_log_is_an_object_with_a_time_a_level_and_a_message(talkative):
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(talkative))
    assert {"triton", "ofa.request"} <= {line["logger"] for line in lines(talkative)}


def spans_of(collector, trace, names):
    """A trace's spans by name, once those named have come."""

    def found():
        return {span.name: span for span in list(collector.spans) if span.trace == trace}

    deadline = time.monotonic() + 30
    while (missing := names - found().keys()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not missing, f"of {len(collector.spans)} spans in all, of the trace {sorted(found())}"
    return found()


STAGES = {f"{STEM}_{stage}" for stage in ("preprocess", "encoder", "beam_search")}
INSIDE = {"decode", "search", "wait for the search"}


def test_a_callers_trace_goes_on_through_triton_and_the_stages(talkative, collector):
    spans = spans_of(collector, TRACE, {"InferRequest", PUBLIC} | STAGES | INSIDE)
    by_id = {span.id: span.name for span in collector.spans}
    assert spans["InferRequest"].parent == CALLER
    assert by_id[spans[PUBLIC].parent] == "InferRequest"
    assert {spans[stage].parent for stage in STAGES} == {spans[PUBLIC].id}
    assert by_id[spans["decode"].parent] == f"{STEM}_preprocess"
    assert by_id[spans["search"].parent] == by_id[spans["wait for the search"].parent] == f"{STEM}_beam_search"
    assert {span.service for span in spans.values()} == {"ofa-caption"}


def test_a_callers_trace_over_grpc_goes_on_in_the_stages(talkative, collector):
    """Triton's own spans may be missing: it reads a part of these headers wrong, see Origin."""
    spans = spans_of(collector, GRPC_TRACE, STAGES | INSIDE)
    [parent] = {spans[stage].parent for stage in STAGES}
    assert parent == CALLER or parent == spans_of(collector, GRPC_TRACE, {PUBLIC})[PUBLIC].id


def test_a_span_lies_within_its_parents_time(talkative, collector):
    spans = spans_of(collector, TRACE, {"InferRequest", f"{STEM}_beam_search", "search"})
    slack = 5_000_000  # ns: the two clocks are read one after the other
    for inner, outer in (("search", f"{STEM}_beam_search"), (f"{STEM}_beam_search", "InferRequest")):
        assert spans[outer].start - slack <= spans[inner].start
        assert spans[inner].end <= spans[outer].end + slack
    assert spans["search"].attributes["beam_size"] == BEAM_SIZE


def test_a_request_without_a_trace_begins_one(talkative, collector):
    wait_until(lambda: len({span.trace for span in collector.spans}) >= 3)
    roots = [span for span in collector.spans if span.name == "InferRequest" and not span.parent.strip("0")]
    assert roots


def test_an_image_that_was_encoded_before_counts_as_a_hit(talkative):
    encoder = f"{STEM}_encoder"
    wait_until(lambda: talkative.metric("nv_cache_num_hits_per_model", model=encoder) == 1)
    assert talkative.metric("nv_cache_num_misses_per_model", model=encoder) >= 1
