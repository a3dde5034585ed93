"""The memory of a batch: it grows and shrinks, and what failed half-way can be tried again."""

import numpy as np
import pytest
from ofa_serving.beam_search import Candidates
from ofa_serving.contract import MAX_LENGTH
from ofa_serving.engines.cached import GraphBatch, GraphEngine


class Memory:
    """NumPy, which runs out of memory after ``left`` arrays."""

    def __init__(self):
        self.left = 1000

    def zeros(self, shape, dtype):
        self.left -= 1
        if self.left < 0:
            raise MemoryError
        return np.zeros(shape, dtype)


class Engine(GraphEngine):
    """Tells of each caption the sum of its cross-attention tensors and of all that its caches hold."""

    in_place = False

    def __init__(self):
        self.xp = Memory()
        shapes = {"self_keys": [None, 2, None, 3], "self_values": [None, 2, None, 3], "cross_keys": [None, 4]}
        super().__init__(shapes | {"cross_values": [None, 4]})

    def run_cross(self, hidden):
        return {name: np.repeat(hidden, 4, 1) for name in self.cross_shapes}

    def run_step(self, inputs, memory):
        state, new = memory.state, memory.new
        for name, buffer in new.items():
            buffer[:] = state[name]
            buffer[:, :, inputs["slots"][:, 0]] += 1
        sums = sum(buffer.reshape(len(buffer), -1).sum(1) for buffer in (*new.values(), *state.values()))
        return Candidates(None, sums, None, None)


def step(batch, number, reach):
    steps = np.full(batch.size, number)
    return batch.step(None, steps, np.zeros((batch.size, 1, reach), int), None, 2).logprobs


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("arrays", range(8))
def test_a_batch_that_lacked_memory_is_as_good_as_new(arrays, used):
    def captioned(batch):
        batch.join([np.full(1, value) for value in (1.0, 2.0)])
        sums = step(batch, 0, 5)
        batch.join([np.full(1, 3.0)] * 4)
        return [sums.tolist(), step(batch, 1, 9).tolist()]

    engine = Engine()
    batch = GraphBatch(engine, 1)
    if used:
        batch.join([np.full(1, 9.0)] * 2)
        for number in range(2):  # each of the two memories that it turns between
            step(batch, number, 5)
        batch.keep([])
    engine.xp.left = arrays
    with pytest.raises(MemoryError):
        batch.join([np.full(1, 7.0)] * 9)
        step(batch, 0, 30)
    if batch.size:  # its captions are given up, and it with them
        return
    engine.xp.left = 1000
    assert captioned(batch) == captioned(GraphBatch(engine, 1))


class InPlace(Engine):
    in_place = keeps_places = True

    def run_step(self, inputs, memory):
        new = memory.new.values()
        for buffer in new:
            buffer[:, :, inputs["slots"][:, 0]] += 1
        return Candidates(None, sum(buffer.reshape(len(buffer), -1).sum(1) for buffer in new), None, None)


def joined(engine, *values):
    batch = GraphBatch(engine, 1)
    batch.join([np.full(1, value) for value in values])
    return batch


def test_a_long_caption_s_memory_grows_by_few_positions_at_a_time_to_the_most_there_are():
    batch, reaches = joined(Engine(), 1.0), []
    for reach in range(1, MAX_LENGTH + 2):
        step(batch, reach - 1, reach)
        reaches.append(batch._reach)
    assert reaches[:24] == list(range(1, 25))
    assert sorted(set(reaches[24:])) == [*range(32, MAX_LENGTH + 1, 8), MAX_LENGTH + 1]


@pytest.mark.parametrize("kind", [Engine, InPlace])
def test_the_captions_that_a_long_one_leaves_behind_do_not_pay_for_it(kind):
    def captioned(batch):
        for number in range(10):
            sums = step(batch, number, 20)
        return sums.tolist()

    batch = joined(kind(), 1.0, 2.0, 3.0)
    step(batch, 99, 100)
    assert batch._reach == 104
    batch.keep([2, 1])
    for cache in batch._caches.values():
        cache[: batch.size] = 0  # of the test's one long step
    shorter = captioned(batch)
    assert batch._reach == 24
    assert all(cache.shape[2] == 24 for cache in (*batch._caches.values(), *batch._others.values()))
    assert shorter == captioned(joined(kind(), 3.0, 2.0))


@pytest.mark.parametrize("kind", [Engine, InPlace])
def test_a_step_gets_the_same_memory_as_long_as_that_stays_where_it_is(kind, monkeypatch):
    batch, run_step, given = joined(kind(), 1.0, 2.0, 3.0), kind.run_step, []

    def checked(engine, inputs, memory):
        state = batch._caches | batch._cross
        assert {name: len(part) for name, part in memory.state.items()} == dict.fromkeys(state, batch.size)
        assert all(memory.state[name].base is buffer for name, buffer in state.items())
        assert all(memory.new[name].base is buffer for name, buffer in batch._others.items())
        assert (inputs["ancestors"].shape[2], inputs["ancestors"][0, 0, 2:].tolist()) == (5, [-1, -1, -1])
        given.append(memory)
        return run_step(engine, inputs, memory)

    def turns():
        """The memory of a few steps, each of which is the next but one's, or the next one's."""
        given.clear()
        for number in range(4):
            step(batch, number, 2)
        assert all(one is other for one, other in zip(given[:2], given[2:], strict=True))
        assert (given[0] is given[1]) == kind.in_place
        return {id(memory): memory for memory in given}

    step(batch, 0, 5)
    monkeypatch.setattr(kind, "run_step", checked)
    three = turns()
    batch.keep([2])
    one = turns()
    batch.join([np.full(1, 4.0)] * 2)
    assert not one.keys() & three.keys()
    assert turns().keys() == three.keys()
    batch.join([np.full(1, 5.0)] * 9)
    batch.keep([1, 2, 3])
    assert not turns().keys() & three.keys()  # grown


def test_memory_of_a_usual_length_is_left_as_it_is():
    batch = joined(Engine(), 1.0)
    step(batch, 0, 24)
    left = batch._engine.xp.left
    step(batch, 0, 2)
    assert (batch._reach, batch._engine.xp.left) == (24, left)


def test_caches_move_between_the_same_places_where_the_engine_wants_that_and_find_them_empty():
    def moved(number, reach):
        sums.append(step(batch, number, reach).item())
        return list(batch._caches.values())

    def same(some, others):
        return [one is other for one, other in zip(some, others, strict=True)] == [True, True]

    batch, sums = joined(InPlace(), 1.0), []
    short, long = moved(0, 24), moved(50, 60)
    assert not same(short, long)
    assert same(moved(1, 10), short)
    assert same(moved(2, 60), long)
    assert sums == [12, 24, 24, 36]  # what stood at position 50 went with the positions
