"""The memory of a batch: it grows, and what failed half-way can be tried again."""

import numpy as np
import pytest
from ofa_serving.beam_search import Candidates
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

    def run_step(self, inputs, state, new):
        for name, buffer in new.items():
            buffer[:] = state[name]
            buffer[:, :, inputs["slots"][:, 0]] += 1
        sums = sum(buffer.reshape(len(buffer), -1).sum(1) for buffer in (*new.values(), *state.values()))
        return Candidates(None, sums, None, None)


def step(batch, number, reach):
    steps = np.full(batch.size, number)
    return batch.step(None, steps, np.zeros((batch.size, 1, reach), int), None, 2).logprobs


@pytest.mark.parametrize("arrays", range(8))
def test_a_batch_that_lacked_memory_is_as_good_as_new(arrays):
    def captioned(batch):
        batch.join([np.full(1, value) for value in (1.0, 2.0)])
        sums = step(batch, 0, 5)
        batch.join([np.full(1, 3.0)] * 4)
        return [sums.tolist(), step(batch, 1, 9).tolist()]

    engine = Engine()
    batch = GraphBatch(engine, 1)
    engine.xp.left = arrays
    with pytest.raises(MemoryError):
        batch.join([np.full(1, 7.0)] * 9)
        step(batch, 0, 30)
    if batch.size:  # its captions are given up, and it with them
        return
    engine.xp.left = 1000
    assert captioned(batch) == captioned(GraphBatch(engine, 1))
