"""More than can be served: the rest is refused at once and in words, nobody gets another's caption, memory stays."""

import dataclasses
import time

import numpy as np
import pytest
from altered import altered
from cases import CASES
from flood import CODES, OK, flood, known_images
from processes import descendants, resident_bytes, shared_memory_bytes
from serving_process import ServerProcess, wait_until
from tritonclient import grpc
from tritonclient.utils import InferenceServerException
from wire import over_grpc

MODEL = CASES[0].model_name
DEADLINE = 10
"""Seconds that a client of the flood waits."""

SLACK = 60
"""More seconds in which a busy machine may come to read what was answered in time."""

GROWTH = 1.05


@pytest.fixture(scope="module")
def crowded(artifacts, tmp_path_factory):
    """A server of its own, as its memory is looked at."""
    work = tmp_path_factory.mktemp("crowded")
    with ServerProcess(artifacts(CASES[0]).parent, [MODEL], work) as running:
        yield running


def withstands(server, requests, concurrency):
    outcomes = flood(
        server.grpc_url, MODEL, known_images(CASES[0]), requests=requests, concurrency=concurrency, seconds=DEADLINE
    )
    assert outcomes.undocumented == []
    assert set(outcomes.codes) <= CODES - {"INTERNAL", "UNAVAILABLE"}
    assert sum(outcomes.codes.values()) == requests
    assert outcomes.mixed_up == 0
    assert outcomes.codes[OK] > 0
    assert outcomes.percentile(99) < DEADLINE + SLACK
    assert max(outcomes.refused, default=0) < DEADLINE + SLACK
    wait_until(lambda: server.metric("ofa_requests_in_flight") == 0)
    return outcomes


def test_a_flood_is_answered_or_refused(crowded):
    before = descendants(crowded.pid)
    outcomes = withstands(crowded, requests=600, concurrency=200)
    assert outcomes.codes["OVERLOADED"] > 0
    assert descendants(crowded.pid) == before


@pytest.mark.long
def test_4000_requests_at_400_concurrent_leave_no_memory_behind(crowded, record_property):
    withstands(crowded, requests=4000, concurrency=400)  # every buffer has its size from then on
    time.sleep(5)
    memory, shared = resident_bytes(crowded.pid), shared_memory_bytes(crowded)
    outcomes = withstands(crowded, requests=4000, concurrency=400)
    time.sleep(60)
    after, shared_after = resident_bytes(crowded.pid), shared_memory_bytes(crowded)
    record_property("codes", dict(outcomes.codes))
    record_property("p99_seconds", round(outcomes.percentile(99), 2))
    record_property("resident_growth", round(after / memory - 1, 4))
    record_property("shared_memory_growth", round(shared_after / shared - 1, 4))
    assert after < memory * GROWTH
    assert shared_after < shared * GROWTH


HOLD = """
import time
from pathlib import Path
import ofa_serving.models.preprocess as module
original = module.load_pixels
def held(*arguments):
    while Path({flag!r}).exists():
        time.sleep(0.02)
    return original(*arguments)
module.load_pixels = held
"""


def test_interactive_requests_are_served_before_batch_ones(artifacts, tmp_path):
    flag = tmp_path / "hold"
    held = {f"{MODEL}_preprocess": HOLD.format(flag=str(flag))}
    altered(artifacts(CASES[0]), tmp_path / "artifacts", limits={"max_running": 1}, code=held)
    with ServerProcess(tmp_path / "artifacts", [MODEL], tmp_path) as server:
        order = served_in_order(server, ["batch"] * 6 + ["interactive"] * 6, flag)
    assert order[0] == "batch"  # nobody else was there yet
    assert order[1:] == ["interactive"] * 6 + ["batch"] * 5


def served_in_order(server, classes, flag):
    """Sends requests of these priority classes one after the other, holds the first until all are there.

    Returns:
        Their classes as they are done.
    """
    image = grpc.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[CASES[0].images[0]]], dtype=np.object_))
    done = []
    flag.touch()
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for number, priority in enumerate(classes):
            client.async_infer(
                MODEL,
                [image],
                lambda result, error, priority=priority: done.append(f"{error}" if error else priority),
                parameters={"priority_class": priority},
            )
            wait_until(lambda number=number: server.metric("ofa_requests_in_flight") == number + 1)
        flag.unlink()
        wait_until(lambda: len(done) == len(classes))
    return done


@pytest.mark.parametrize("value", ["urgent", "", 1, True])
def test_an_unknown_priority_class_is_named(crowded, value):
    with pytest.raises(InferenceServerException, match="INVALID_PARAMETER: priority_class must be"):
        over_grpc(crowded, MODEL, [CASES[0].images[0]], priority_class=value)


def test_bytes_are_bounded_too(artifacts, tmp_path):
    altered(artifacts(CASES[0]), tmp_path / "artifacts", limits={"max_in_flight_bytes": 100_000})
    with ServerProcess(tmp_path / "artifacts", [MODEL], tmp_path) as server:
        known = known_images(CASES[0])[0]
        padded = dataclasses.replace(known, image=known.image + bytes(40_000))
        outcomes = flood(server.grpc_url, MODEL, [padded], requests=40, concurrency=10, seconds=3 * DEADLINE)
    assert set(outcomes.codes) == {OK, "OVERLOADED"}
