"""What the models count; on Triton's endpoint it is tested in tests/server/test_metrics_served.py."""

from types import SimpleNamespace

import pytest
from ofa_serving.contract import STAGES, Code
from ofa_serving.metrics import (
    CANARIES_VARIABLE,
    CANCELLED,
    OK,
    PATIENCE,
    RESTARTS_VARIABLE,
    STUCK_METRIC,
    EntryMetrics,
    ImageMetrics,
    SearchMetrics,
)
from ofa_serving.waiting import PriorityClass

INTERACTIVE, BATCH = PriorityClass


@pytest.fixture
def entry():
    return EntryMetrics("ofa_caption", max_in_flight=64, environ={CANARIES_VARIABLE: "canary-1 canary-2"})


def value(metrics, name, **labels):
    """A sample's value; of the interactive requests, where requests are told apart and nothing else is said."""
    classed = {"priority": "interactive"} if name.startswith("ofa_request") and name != STUCK_METRIC else {}
    return metrics.registry.get_sample_value(name, {"model": "ofa_caption", **classed, **labels})


def test_every_code_has_a_series_from_the_start(entry):
    for code in (OK, CANCELLED, *Code):
        for priority in PriorityClass:
            assert value(entry, "ofa_requests_total", code=code, priority=priority) == 0


def test_an_answer_counts_by_code_and_a_caption_by_its_time_too(entry):
    entry.answered("", OK, 0.2, INTERACTIVE)
    entry.answered("some id", Code.OVERLOADED, 0, INTERACTIVE)
    assert value(entry, "ofa_requests_total", code=OK) == 1
    assert value(entry, "ofa_requests_total", code="OVERLOADED") == 1
    assert value(entry, "ofa_request_duration_seconds_count") == 1
    assert value(entry, "ofa_request_duration_seconds_bucket", le="0.1") == 0
    assert value(entry, "ofa_request_duration_seconds_bucket", le="0.25") == 1


def test_each_class_counts_by_itself(entry):
    entry.answered("", OK, 3.0, BATCH)
    entry.answered("", Code.OVERLOADED, 0, BATCH)
    for name, code in (("ofa_request_duration_seconds_count", {}), ("ofa_requests_total", {"code": "OVERLOADED"})):
        assert value(entry, name, **code) == 0
        assert value(entry, name, **code, priority="batch") == 1


def test_what_a_client_gives_up_at_once_is_not_what_the_server_is_late_with(entry):
    for seconds in (0, 0.1, 1):
        entry.answered("", Code.DEADLINE_EXCEEDED, seconds, INTERACTIVE)
    entry.answered("", Code.DEADLINE_EXCEEDED, PATIENCE, INTERACTIVE)
    assert value(entry, "ofa_requests_total", code=CANCELLED) == 3
    assert value(entry, "ofa_requests_total", code="DEADLINE_EXCEEDED") == 1


@pytest.mark.parametrize("environ", [{}, {CANARIES_VARIABLE: "canary-1"}])
def test_no_caller_can_pass_for_a_probe_by_a_name(environ):
    entry = EntryMetrics("ofa_caption", 64, environ)
    for request_id in ("", "canary", "canary-"):
        entry.answered(request_id, Code.INTERNAL, 0.2, INTERACTIVE)
    assert value(entry, "ofa_requests_total", code="INTERNAL") == 3


def test_a_probes_request_counts_apart(entry):
    entry.answered("canary-2", OK, 0.2, INTERACTIVE)
    entry.staged("canary-2", [[1, 2, 3, 4, 5]])
    assert value(entry, "ofa_canary_total", code=OK) == 1
    assert value(entry, "ofa_requests_total", code=OK) == 0
    assert value(entry, "ofa_request_duration_seconds_count") == 0
    assert value(entry, "ofa_stage_duration_seconds_count", stage="search") == 0


def test_each_image_of_a_request_counts_in_each_stage(entry):
    entry.staged("", [[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]])
    for number, stage in enumerate(STAGES, start=1):
        assert value(entry, "ofa_stage_duration_seconds_count", stage=stage) == 2
        assert value(entry, "ofa_stage_duration_seconds_sum", stage=stage) == pytest.approx(number * 11 / 1e3)


def test_the_limit_of_images_in_flight_is_shown(entry):
    assert value(entry, "ofa_images_in_flight_limit") == 64


def test_restarts_are_those_the_launcher_tells_of():
    assert value(EntryMetrics("ofa_caption", 64, {}), "ofa_server_restarts_total") == 0
    assert value(EntryMetrics("ofa_caption", 64, {RESTARTS_VARIABLE: "3"}), "ofa_server_restarts_total") == 3


def test_images_count_by_their_size():
    images = ImageMetrics("ofa_caption")
    images.received("", 5_000)
    assert value(images, "ofa_image_size_bytes_bucket", le="4096.0") == 0
    assert value(images, "ofa_image_size_bytes_bucket", le="16384.0") == 1


def test_the_search_is_read_when_it_is_asked_for():
    search = SimpleNamespace(waiting=0, searching=0, steps=0, rows=0, tokens=0)
    metrics = SearchMetrics("ofa_caption", search)
    search.waiting, search.searching, search.steps, search.rows, search.tokens = 3, 2, 10, 100, 20
    assert value(metrics, "ofa_captions_waiting") == 3
    assert value(metrics, "ofa_captions_searching") == 2
    assert value(metrics, "ofa_search_steps_total") == 10
    assert value(metrics, "ofa_search_rows_total") / value(metrics, "ofa_search_steps_total") == 10
    assert value(metrics, "ofa_search_tokens_total") == 20
