"""Who may enter: bounds by images and by bytes, room kept for interactive requests, and what the refused are told."""

import re
import time

import pytest
from ofa_serving.admission import Admission, Load
from ofa_serving.contract import CaptionError, Code
from ofa_serving.draining import DRAIN_VARIABLE
from ofa_serving.waiting import PriorityClass


@pytest.fixture
def now(monkeypatch):
    """The clock, in its one element."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def refusal(admission, load=None, priority=PriorityClass.INTERACTIVE):
    with pytest.raises(CaptionError) as refused:
        admission.enter(load or Load(), priority)
    assert refused.value.code == Code.OVERLOADED
    return refused.value.message


def paced(now, admission, images, captioned, **how):
    """Images enter, and so many of them are captioned, two seconds each: of 30 seconds, twelve come in time."""
    for _ in range(images):
        admission.enter(**how)
    for _ in range(captioned):
        now[0] += 2
        admission.leave()


def test_images_are_bounded_and_one_that_leaves_makes_room():
    admission = Admission(max_images=2)
    admission.enter()
    admission.enter()
    refusal(admission)
    admission.leave()
    admission.enter()
    refusal(admission)


def test_a_request_counts_as_many_images_as_it_has():
    admission = Admission(max_images=16)
    admission.enter(Load(images=10))
    refusal(admission, Load(images=7))
    admission.enter(Load(images=6))
    refusal(admission)


def test_requests_and_their_images_are_told():
    told = []
    admission = Admission(max_images=16, changed=lambda *counts: told.append(counts))
    admission.enter(Load(images=10))
    admission.enter()
    admission.leave(Load(images=10))
    assert told == [(1, 10), (2, 11), (1, 1)]


def test_bytes_are_bounded():
    admission = Admission(max_images=100, max_bytes=1000)
    admission.enter(Load(bytes=600))
    refusal(admission, Load(bytes=401))
    admission.enter(Load(bytes=400))
    refusal(admission, Load(bytes=1))


def test_one_that_is_too_large_for_any_room_is_let_in_alone_to_be_told_why():
    admission = Admission(max_images=4, max_bytes=1000)
    admission.enter(Load(bytes=5000))
    refusal(admission, Load(bytes=1))
    admission.leave(Load(bytes=5000))
    admission.enter(Load(bytes=1))
    refusal(admission, Load(bytes=5000))


def test_batch_requests_take_half_the_room_at_most():
    admission = Admission(max_images=4)
    admission.enter(priority=PriorityClass.BATCH)
    admission.enter(priority=PriorityClass.BATCH)
    refusal(admission, priority=PriorityClass.BATCH)
    admission.enter()
    admission.enter()
    refusal(admission)


def test_a_refused_request_does_not_count():
    counts = []
    admission = Admission(max_images=1, changed=lambda *pair: counts.append(pair))
    admission.enter()
    refusal(admission)
    admission.leave()
    assert counts == [(1, 1), (0, 0)]


def test_nobody_enters_a_server_that_is_stopping(tmp_path):
    drain = tmp_path / "drain"
    admission = Admission(max_images=4, environ={DRAIN_VARIABLE: str(drain)})
    admission.enter()
    drain.touch()
    assert refusal(admission) == "the server is stopping; send the request again, to another"


def test_the_refused_are_told_when_those_in_flight_will_be_done(now):
    admission = Admission(max_images=20)
    for _ in range(20):
        admission.enter()
    assert hint(admission) == 1
    for _ in range(200):  # an image takes half a second, while others wait
        now[0] += 0.5
        admission.leave()
        admission.enter()
    assert hint(admission) == 10


def test_idle_time_says_nothing_of_how_long_an_image_takes(now):
    admission = Admission(max_images=1)
    for _ in range(100):
        admission.enter()
        admission.leave()
        now[0] += 1000
    admission.enter()
    assert hint(admission) == 1


def test_what_would_be_answered_too_late_is_refused_at_once(now):
    admission = Admission(max_images=64, max_seconds=30)
    paced(now, admission, images=20, captioned=4)
    assert hint(admission) == 30
    paced(now, admission, images=0, captioned=5)
    admission.enter()
    refusal(admission)


def test_the_pace_outlives_an_idle_time(now):
    admission = Admission(max_images=64, max_seconds=30)
    paced(now, admission, images=5, captioned=5)
    now[0] += 1000
    for _ in range(12):
        admission.enter()
    refusal(admission)


def test_after_an_idle_time_the_first_image_tells_the_pace_anew(now):
    admission = Admission(max_images=4, max_seconds=30)
    admission.enter()
    admission.enter()
    for _ in range(2):  # something hung
        now[0] += 29
        admission.leave()
    admission.enter()
    refusal(admission)
    now[0] += 0.5
    admission.leave()
    for _ in range(4):
        admission.enter()


def test_an_image_alone_tells_the_pace_of_a_crowd(now):
    admission = Admission(max_images=64, max_seconds=30)
    admission.enter()
    now[0] += 8
    admission.leave(took=8)
    for _ in range(3):
        admission.enter()
    refusal(admission)


def test_a_server_whose_every_caption_is_late_takes_fewer(now):
    admission = Admission(max_images=64, max_seconds=30, at_once=4)
    for _ in range(8):
        admission.enter()
    now[0] += 30
    for _ in range(8):
        admission.leave(took=30, captioned=False)
    for _ in range(3):
        admission.enter()
    refusal(admission)


def test_a_request_that_would_miss_its_own_deadline_is_refused_at_once(now):
    admission = Admission(max_images=64, max_seconds=30)
    paced(now, admission, images=6, captioned=3)
    with pytest.raises(CaptionError, match="OVERLOADED"):
        admission.enter(seconds=9)
    admission.enter(seconds=10)
    admission.enter(seconds=30)


def test_a_slow_server_keeps_room_for_interactive_requests_too(now):
    admission = Admission(max_images=64, max_seconds=30)
    paced(now, admission, images=30, captioned=20, priority=PriorityClass.BATCH)  # six of the batch class come in time
    refusal(admission, priority=PriorityClass.BATCH)
    admission.enter()
    admission.enter()
    refusal(admission)


def test_what_was_given_up_says_nothing_of_how_long_an_image_takes(now):
    admission = Admission(max_images=20)
    for _ in range(20):
        admission.enter()
    for _ in range(50):  # one image a second is captioned, and four others are given up meanwhile
        for captioned in (False, False, False, False, True):
            now[0] += 0.2
            admission.leave(took=20.0, captioned=captioned)
            admission.enter()
    assert hint(admission) == 20


def test_a_last_request_that_was_given_up_leaves_an_idle_server(now):
    admission = Admission(max_images=2)
    admission.enter()
    admission.enter()
    admission.leave()
    admission.leave(captioned=False)
    now[0] += 1000
    admission.enter()
    admission.enter()
    admission.leave()
    admission.enter()
    assert hint(admission) == 1


def test_a_rare_caption_among_requests_that_are_given_up_does_not_make_the_server_slow(now):
    admission = Admission(max_images=20)
    for _ in range(20):
        admission.enter()
    for _ in range(50):  # as others come and go all the time, the server is never idle
        now[0] += 20
        admission.leave(took=0.5)
        admission.enter()
    assert hint(admission) == 10


def hint(admission):
    return int(re.fullmatch(r".*; try again in (\d+) s", refusal(admission))[1])
