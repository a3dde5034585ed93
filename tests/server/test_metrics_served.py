"""Triton's metrics endpoint shows what the models count, as Prometheus reads it."""

import re
import time
import urllib.request

import pytest
from cases import CASES
from tritonclient.utils import InferenceServerException
from wire import over_grpc

CASE = CASES[0]
PUBLIC, SEARCH = CASE.model_name, f"{CASE.model_name}_beam_search"
BEAM_SIZE, MAX_LENGTH = 4, 6


class Scrape:
    """The endpoint's samples at one moment."""

    def __init__(self, server):
        with urllib.request.urlopen(server.metrics_url, timeout=60) as answer:
            lines = re.findall(r"^(\w+){(.*)} (\S+)$", answer.read().decode(), re.MULTILINE)
        self._values = {
            (name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value) for name, labels, value in lines
        }
        self.counts = {key: value for key, value in self._values.items() if key[0].startswith("ofa_")}

    def of(self, model):
        """What one model's process counts."""
        return {key: value for key, value in self.counts.items() if ("model", model) in key[1]}

    def __call__(self, name, model, **labels):
        return self._values[name, frozenset({"model": model, **labels}.items())]


@pytest.fixture(scope="module")
def scrapes(server):
    """Before and after three captions of one request of the batch class, and a refusal of each class."""
    before = settled(server)
    settings = {"beam_size": BEAM_SIZE, "max_length": MAX_LENGTH, "min_length": MAX_LENGTH}
    over_grpc(server, PUBLIC, [CASE.images[0]] * 3, **settings, priority_class="batch")
    with pytest.raises(InferenceServerException, match="UNSUPPORTED_FORMAT"):
        over_grpc(server, PUBLIC, [b"no image"])
    with pytest.raises(InferenceServerException, match="INVALID_PARAMETER"):
        over_grpc(server, PUBLIC, [CASE.images[0]], beam_size=0, priority_class="batch")
    return before, settled(server, since=before)


def settled(server, since=None):
    """The first scrape that the next round of publishing does not change, all models having published ``since``."""
    models = [PUBLIC, SEARCH, f"{PUBLIC}_preprocess"]
    latest = Scrape(server)
    for _ in range(60):
        time.sleep(2.5)  # they publish each second, a starved one later
        previous, latest = latest, Scrape(server)
        if latest.counts == previous.counts and not (since and any(latest.of(m) == since.of(m) for m in models)):
            return latest
    raise AssertionError("the metrics never settled")


def increase(scrapes, name, model=PUBLIC, **labels):
    before, after = scrapes
    return after(name, model, **labels) - before(name, model, **labels)


def test_requests_count_by_code(scrapes):
    assert increase(scrapes, "ofa_requests_total", code="OK", priority="batch") == 1
    assert increase(scrapes, "ofa_requests_total", code="OK", priority="interactive") == 0
    assert increase(scrapes, "ofa_requests_total", code="UNSUPPORTED_FORMAT", priority="interactive") == 1
    assert increase(scrapes, "ofa_requests_total", code="INVALID_PARAMETER", priority="batch") == 1
    assert increase(scrapes, "ofa_requests_total", code="INTERNAL", priority="batch") == 0


def test_a_histograms_buckets_sum_and_count_fit_each_other(scrapes):
    name, batch = "ofa_request_duration_seconds", {"priority": "batch"}
    assert increase(scrapes, f"{name}_bucket", le="+Inf", **batch) == increase(scrapes, f"{name}_count", **batch) == 1
    assert increase(scrapes, f"{name}_bucket", le="0.005", **batch) == 0
    assert 0.005 < increase(scrapes, f"{name}_sum", **batch) < 30


def test_each_image_counts_in_each_stage_and_no_stage_takes_longer_than_the_request(scrapes):
    whole = increase(scrapes, "ofa_request_duration_seconds_sum", priority="batch")
    for stage in ("preprocess_queue", "preprocess", "encode", "search_queue", "search"):
        assert increase(scrapes, "ofa_stage_duration_seconds_count", stage=stage) == 3
        assert increase(scrapes, "ofa_stage_duration_seconds_sum", stage=stage) <= 3 * whole


def test_images_count_in_whichever_process_decodes_them(scrapes):
    model = f"{PUBLIC}_preprocess"
    assert increase(scrapes, "ofa_image_size_bytes_count", model=model) == 4
    assert increase(scrapes, "ofa_image_size_bytes_sum", model=model) == 3 * len(CASE.images[0]) + len(b"no image")


def test_rows_and_tokens_are_those_of_the_search(scrapes):
    steps, rows, tokens = (
        increase(scrapes, f"ofa_search_{what}_total", model=SEARCH) for what in ("steps", "rows", "tokens")
    )
    assert tokens == 3 * (MAX_LENGTH + 1)  # the end of sentence is a token as well
    assert rows == tokens * BEAM_SIZE
    assert MAX_LENGTH + 1 <= steps <= tokens


def test_an_idle_server_has_nothing_in_flight(scrapes):
    after = scrapes[1]
    assert after("ofa_captions_waiting", SEARCH) == after("ofa_captions_searching", SEARCH) == 0
    assert after("ofa_requests_in_flight", PUBLIC) == 0
    assert after("ofa_images_in_flight_limit", PUBLIC) == 64


def test_the_launchers_known_image_counts_as_a_canary(scrapes):
    assert scrapes[0]("ofa_canary_total", PUBLIC, code="OK") == 1
