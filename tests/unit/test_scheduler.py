"""In-flight batching: who is searched together, who leaves when, and what happens when something fails."""

import contextlib
import gc
import queue
import re
import threading
import time
import weakref
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from ofa_serving import scheduler as scheduling
from ofa_serving.beam_search import Candidates, SpecialTokens
from ofa_serving.contract import CaptionError, Code
from ofa_serving.engines.base import DecoderBatch, DecoderEngine
from ofa_serving.generation import GenerationConfig
from ofa_serving.scheduler import Job, Scheduler
from ofa_serving.waiting import PriorityClass
from serving_process import wait_until

VOCABULARY = 40
PATIENCE = 60
"""Seconds, for what comes about at once unless the machine stands still."""


class Arrivals:
    """A queue that gives nothing out while it is held: what is submitted together also arrives together."""

    def __init__(self):
        self._queue, self.held = queue.SimpleQueue(), threading.RLock()
        self.put, self.empty = self._queue.put, self._queue.empty

    def get(self, block):
        job = self._queue.get(block)
        with self.held:
            return job


class CountingEngine(DecoderEngine):
    """A decoder whose caption of the hidden value v is v, v + 1, …, so that a mixed-up row shows."""

    def __init__(self):
        self.sizes, self.gate, self.fail, self.slow = [], threading.Event(), False, 0.0
        self.batches = []  # weak references
        self.gate.set()

    @property
    def opened(self):
        return len(self.batches)

    def open(self, beam_size):
        if self.fail:
            raise RuntimeError("the engine broke")
        batch = CountingBatch(self, beam_size)
        self.batches.append(weakref.ref(batch))
        return batch


class CountingBatch(DecoderBatch):
    def __init__(self, engine, beam_size):
        self.engine, self.beams, self.values = engine, beam_size, []

    def join(self, hidden):
        self.values += [int(states[0, 0]) for states in hidden]

    def keep(self, captions):
        self.values = [self.values[caption] for caption in captions]

    def step(self, tokens, steps, ancestors, temperature, count):
        self.engine.gate.wait(PATIENCE)
        time.sleep(self.engine.slow)
        if self.engine.fail:
            raise RuntimeError("the engine broke")
        self.engine.sizes.append(len(self.values))
        assert tokens.shape == (len(self.values), self.beams)
        logprobs = np.full((*tokens.shape, VOCABULARY), -20.0, np.float32)
        for row, (value, step) in enumerate(zip(self.values, steps, strict=True)):
            logprobs[row, :, (value + step) % VOCABULARY] = -0.1
        ids = np.argsort(-logprobs, axis=-1, kind="stable")[..., :count]
        best = np.take_along_axis(logprobs, ids, -1)
        return Candidates(ids, best, logprobs[..., 2], logprobs[..., 3])


@pytest.fixture
def engine():
    return CountingEngine()


@pytest.fixture
def scheduler(engine, monkeypatch):
    monkeypatch.setattr(scheduling, "queue", SimpleNamespace(SimpleQueue=Arrivals, Empty=queue.Empty))
    scheduler = Scheduler(engine, SpecialTokens(), max_captions=4, max_pending=8)
    yield scheduler
    engine.gate.set()
    scheduler.close()


def submit(
    scheduler,
    *values,
    length=5,
    beams=1,
    seconds=30.0,
    cancelled=lambda: False,
    priority=PriorityClass.INTERACTIVE,
):
    settings = GenerationConfig(beam_size=beams, max_length=length, no_repeat_ngram_size=0)
    futures = [Future() for _ in values]
    until = time.monotonic() + seconds
    jobs = [
        Job(np.full((1, 1), v), settings, until, f.set_result, cancelled, priority)
        for v, f in zip(values, futures, strict=True)
    ]
    with together(scheduler):
        scheduler.submit(jobs)
    return futures


def together(scheduler):
    return getattr(scheduler._arrivals, "held", contextlib.nullcontext())


def tokens(future):
    return future.result(PATIENCE).hypotheses[0].tokens.tolist()


def counted(value, length):
    return [*range(value, value + length), 2]


def test_each_caption_gets_its_own_result(scheduler):
    futures = {value: submit(scheduler, value, length=3 + value % 3)[0] for value in range(4, 12)}
    for value, future in futures.items():
        assert tokens(future) == counted(value, 3 + value % 3)


def test_captions_join_a_running_search(scheduler, engine):
    engine.gate.clear()
    first = submit(scheduler, 5, length=6)[0]
    wait_until(lambda: scheduler.searching == 1)
    second = submit(scheduler, 9, length=2)[0]
    engine.gate.set()
    assert tokens(first) == counted(5, 6)
    assert tokens(second) == counted(9, 2)
    assert engine.sizes[0] == 1
    assert 2 in engine.sizes


def test_beam_sizes_are_searched_side_by_side(scheduler):
    one, two = submit(scheduler, 5, beams=1)[0], submit(scheduler, 9, beams=3)[0]
    assert tokens(one) == counted(5, 5)
    assert tokens(two) == counted(9, 5)


def test_after_a_long_caption_the_next_gets_caches_of_its_own_length(scheduler, engine):
    assert tokens(submit(scheduler, 4, length=30)[0]) == counted(4, 30)
    assert tokens(submit(scheduler, 5)[0]) == counted(5, 5)
    assert tokens(submit(scheduler, 6)[0]) == counted(6, 5)
    assert engine.opened == 2


def test_caches_that_were_let_go_are_gone_while_nothing_happens(scheduler, engine):
    gc.disable()
    try:
        assert tokens(submit(scheduler, 4, length=30)[0]) == counted(4, 30)
        wait_until(lambda: engine.batches[0]() is None)
    finally:
        gc.enable()


def test_captions_whose_batch_cannot_be_opened_fail_and_the_next_do_not(scheduler, engine):
    engine.fail = True
    failed = [future.result(PATIENCE) for future in submit(scheduler, 4, 5)]
    assert [error.code for error in failed] == [Code.INTERNAL] * 2
    engine.fail = False
    assert tokens(submit(scheduler, 6)[0]) == counted(6, 5)


def test_a_long_caption_that_ends_leaves_its_neighbours_where_they_are(scheduler, engine):
    engine.gate.clear()
    with together(scheduler):
        long, neighbour = submit(scheduler, 4, length=30)[0], submit(scheduler, 5, length=32)[0]
    wait_until(lambda: scheduler.searching == 2)
    engine.gate.set()
    assert tokens(long) == counted(4, 30)
    assert tokens(neighbour) == counted(5, 32)
    assert engine.opened == 1


def test_no_more_captions_at_a_time_than_allowed(scheduler, engine):
    engine.gate.clear()
    futures = submit(scheduler, *range(4, 12))
    engine.gate.set()
    assert [tokens(future) for future in futures] == [counted(value, 5) for value in range(4, 12)]
    assert max(engine.sizes) == 4


def joined(scheduler, engine, *classes):
    """Submits a caption of each class while there is no room; their classes and numbers as they are done."""
    engine.gate.clear()
    submit(scheduler, 4, 5, 6, 7)
    wait_until(lambda: scheduler.searching == 4)
    done = []
    for number, priority in enumerate(classes):
        (future,) = submit(scheduler, 8 + number, priority=priority)
        future.add_done_callback(lambda _, name=f"{priority} {number}": done.append(name))
    engine.gate.set()
    wait_until(lambda: len(done) == len(classes))
    return done


BATCH, INTERACTIVE = PriorityClass.BATCH, PriorityClass.INTERACTIVE


def test_interactive_captions_join_before_batch_ones_and_each_kind_in_order(scheduler, engine, monkeypatch):
    monkeypatch.setattr(scheduling, "BATCH_PATIENCE", 10 * PATIENCE)
    done = joined(scheduler, engine, BATCH, BATCH, INTERACTIVE, BATCH, BATCH, INTERACTIVE, INTERACTIVE, INTERACTIVE)
    assert done == [f"interactive {n}" for n in (2, 5, 6, 7)] + [f"batch {n}" for n in (0, 1, 3, 4)]


def test_a_batch_caption_that_has_waited_long_is_passed_by_nobody(scheduler, engine, monkeypatch):
    monkeypatch.setattr(scheduling, "BATCH_PATIENCE", 0)
    done = joined(scheduler, engine, BATCH, BATCH, BATCH, BATCH, INTERACTIVE)
    assert done[-1] == "interactive 4"


def test_one_too_many_is_refused_and_the_others_are_answered(scheduler, engine):
    engine.gate.clear()
    running = submit(scheduler, 4, 5, 6, 7)
    wait_until(lambda: scheduler.searching == 4)
    waiting = submit(scheduler, *range(8, 16))
    with pytest.raises(CaptionError) as refused:
        submit(scheduler, 16)
    assert refused.value.code == Code.OVERLOADED
    engine.gate.set()
    assert [tokens(future)[0] for future in running + waiting] == list(range(4, 16))


@pytest.mark.parametrize("others", [0, 4], ids=["searched", "waiting"])
def test_a_late_caption_is_let_go(scheduler, engine, others):
    engine.gate.clear()
    submit(scheduler, *range(4, 4 + others))
    (late,) = submit(scheduler, 20, seconds=0.05)
    time.sleep(0.1)
    engine.gate.set()
    assert late.result(PATIENCE).code == Code.DEADLINE_EXCEEDED
    assert tokens(submit(scheduler, 30, length=3)[0]) == counted(30, 3)


def test_a_cancelled_caption_leaves_its_row_to_others_within_a_step(scheduler, engine):
    gone = threading.Event()
    engine.gate.clear()
    cancelled = submit(scheduler, 5, 6, 7, 8, length=100, cancelled=gone.is_set)
    wait_until(lambda: scheduler.searching == 4)
    waiting = submit(scheduler, 20)[0]
    gone.set()
    steps = len(engine.sizes)
    engine.gate.set()
    assert tokens(waiting) == counted(20, 5)
    assert [future.result(PATIENCE).code for future in cancelled] == [Code.DEADLINE_EXCEEDED] * 4
    assert engine.sizes[steps:].count(4) <= 1
    assert scheduler.searching == 0


def test_one_cancelled_caption_does_not_disturb_its_neighbours(scheduler, engine):
    gone = threading.Event()
    engine.gate.clear()
    with together(scheduler):
        cancelled = submit(scheduler, 5, length=30, cancelled=gone.is_set)[0]
        neighbours = submit(scheduler, 11, 20, length=9)
    wait_until(lambda: scheduler.searching == 3)
    gone.set()
    engine.gate.set()
    assert cancelled.result(PATIENCE).code == Code.DEADLINE_EXCEEDED
    assert [tokens(future) for future in neighbours] == [counted(11, 9), counted(20, 9)]


def test_what_waits_is_told_in_time_though_there_is_no_room(scheduler, engine):
    engine.slow = 0.02
    gone, over = threading.Event(), threading.Event()
    running = submit(scheduler, 4, 5, 6, 7, length=3000, seconds=600, cancelled=over.is_set)  # for a minute
    wait_until(lambda: scheduler.searching == 4)
    late, cancelled = submit(scheduler, 20, seconds=0.1)[0], submit(scheduler, 21, cancelled=gone.is_set)[0]
    gone.set()
    assert [future.result(PATIENCE).code for future in (late, cancelled)] == [Code.DEADLINE_EXCEEDED] * 2
    assert not any(future.done() for future in running)
    assert scheduler.waiting == 0
    over.set()


def test_a_clock_that_is_set_changes_no_deadline(scheduler, engine, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert tokens(submit(scheduler, 5)[0]) == counted(5, 5)


def test_a_broken_step_fails_its_captions_and_not_the_next(scheduler, engine, caplog):
    engine.fail = True
    error = submit(scheduler, 5)[0].result(PATIENCE)
    assert error.code == Code.INTERNAL
    told = re.fullmatch(r"the request failed inside the server \(error ([0-9a-f]{12})\)", error.message)
    assert f"error {told[1]}" in caplog.text
    assert "RuntimeError: the engine broke" in caplog.text
    engine.fail = False
    assert tokens(submit(scheduler, 5)[0]) == counted(5, 5)


def test_an_answer_that_cannot_be_delivered_harms_nobody(scheduler):
    settings = GenerationConfig(beam_size=1, max_length=2)

    def refuse(_result):
        raise ConnectionError

    scheduler.submit([Job(np.full((1, 1), 4), settings, time.monotonic() + 9, refuse)])
    assert tokens(submit(scheduler, 5)[0]) == counted(5, 5)


def test_closing_answers_what_was_submitted(engine):
    scheduler = Scheduler(engine, SpecialTokens(), max_captions=2, max_pending=8)
    futures = submit(scheduler, 4, 5, 6)
    scheduler.close()
    assert all(future.done() for future in futures)
    with pytest.raises(CaptionError):
        submit(scheduler, 7)
