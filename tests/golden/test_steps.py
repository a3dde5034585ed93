"""A batch's memory in each engine: what is prepared over it once serves every step, and goes when the batch goes."""

import gc
import weakref
from copy import deepcopy
from dataclasses import astuple
from itertools import count

import numpy as np
import pytest
from cases import CASES
from ofa_serving.beam_search import BeamSearches, SpecialTokens
from ofa_serving.engines.cached import GraphBatch
from ofa_serving.engines.device import Device
from ofa_serving.engines.onnxruntime import OnnxRuntimeEngine
from ofa_serving.engines.onnxruntime_device import DeviceEngine
from ofa_serving.engines.openvino import OpenVinoEngine
from ofa_serving.generation import GenerationConfig

BEAMS = 3
STATES = CASES[0].tensors["encoder_hidden"]
ENGINES = {
    "onnxruntime": lambda folder: OnnxRuntimeEngine(folder, 1),
    "onnxruntime on the host": lambda folder: DeviceEngine(folder, Device.named("host")),
    "openvino": lambda folder: OpenVinoEngine(folder, 1, "fp32"),
    "openvino in bf16": lambda folder: OpenVinoEngine(folder, 1, "bf16"),
}


@pytest.fixture(params=ENGINES, scope="module")
def engine(request, artifacts):
    case = CASES[0]
    return ENGINES[request.param](artifacts(case) / "model_repository" / f"{case.model_name}_beam_search" / "1")


def caption(length, ngram=0):
    return GenerationConfig(beam_size=BEAMS, max_length=length, min_length=length, no_repeat_ngram_size=ngram)


ARRIVALS = {
    0: [caption(5), caption(8, 1)],
    2: [caption(4, 2)],
    6: [caption(12, 1), caption(30, 2), caption(3)],  # more than there were places for
    20: [caption(6)],
    34: [caption(7, 1), caption(6, 3)],  # the longest leaves them soon
}
"""By the step before which they join; a repeated n-gram changes how many candidates are wanted."""


def stepped(batch, anew=False):
    """What each step of a search finds whose captions come and go, each as it was and as it is after the last one.

    Args:
        batch: a batch without captions.
        anew: whether nothing that is prepared serves twice.
    """
    searches, found = BeamSearches(BEAMS, SpecialTokens()), []
    for number in count():
        if joining := ARRIVALS.get(number):
            batch.join([STATES[(number + index) % len(STATES)] for index in range(len(joining))])
            searches.join(joining)
        if not batch.size:
            break
        if anew:
            batch._memory.clear()
            getattr(batch._engine, "_launches", {}).clear()
        past = searches.ancestors[:, :, : searches.reach]
        found.append(batch.step(searches.tokens, searches.steps, past, searches.temperature, searches.candidates))
        found.append(deepcopy(found[-1]))
        left = np.flatnonzero(~searches.advance(found[-1]))[::-1].tolist()
        batch.keep(left)
        searches.keep(left)
    assert number > max(ARRIVALS)
    return found[::2], found[1::2]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for values, wanted in zip(astuple(one), astuple(other), strict=True):
            np.testing.assert_array_equal(values, wanted)


def test_steps_over_memory_that_is_kept_find_what_steps_prepared_anew_find(engine):
    batch = GraphBatch(engine, BEAMS)
    found, at_once = stepped(batch)
    assert len({candidates.ids.shape for candidates in found}) > 8, "too few kinds of steps show nothing"
    assert_same(found, at_once)
    assert_same(found, stepped(GraphBatch(engine, BEAMS), anew=True)[0])
    again = stepped(batch)[0]  # in the places of captions that have left
    assert_same(again, stepped(batch, anew=True)[0])


def test_another_count_of_candidates_needs_nothing_prepared_for_it(engine):
    batch = GraphBatch(engine, BEAMS)
    batch.join(list(STATES[:2]))
    tokens, steps, past = np.zeros((2, BEAMS), int), np.zeros(2, int), np.full((2, BEAMS, 1), np.arange(BEAMS)[:, None])

    def prepared():
        return sum(len(memory.prepared) for memory in batch._memory.values())

    few = [batch.step(tokens, steps, past, np.ones(2, np.float32), 9) for _ in range(2)][-1]  # each of two memories
    kept = prepared()
    for wanted in (10, 9, 30, 12):
        more = batch.step(tokens, steps, past, np.ones(2, np.float32), wanted)
        assert more.ids.shape == more.logprobs.shape == (2, BEAMS, wanted)
        np.testing.assert_array_equal(more.ids[:, :, :9], few.ids)
        np.testing.assert_array_equal(more.eos, few.eos)
    assert prepared() == kept


def test_memory_goes_with_its_batch(engine):
    gc.disable()
    try:
        batch = GraphBatch(engine, BEAMS)
        stepped(batch)
        held = [*batch._cross.values(), *batch._caches.values(), *batch._others.values()]
        held = [weakref.ref(array) for array in held]
        del batch
        assert [one for one in held if one() is not None] == []
    finally:
        gc.enable()
