"""``caption_many``: a set number in flight, in order or as completed, and no more read than asked for."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import time
import uuid
from collections import Counter

import pytest
from ofa_client import AsyncCaptioner, Captioner, InvalidParameterError, Retry, TruncatedImageError
from ofa_client.many import Awaited

from nonsense_servers import grpc_server, one_caption
from patience import eventually


@pytest.fixture(params=["plain", "asyncio"])
def many(request, url):
    """All outcomes of ``caption_many``, of either captioner; ``seen`` is called with each when it comes."""

    def plain(images, seen=lambda _outcome: None, **options):
        with Captioner(url) as captioner:
            return [(outcome, seen(outcome))[0] for outcome in captioner.caption_many(images, **options)]

    def asynchronous(images, seen=lambda _outcome: None, **options):
        async def run():
            async with AsyncCaptioner(url) as captioner:
                outcomes = captioner.caption_many(images, **options)
                return [(outcome, seen(outcome))[0] async for outcome in outcomes]

        return asyncio.run(run())

    return plain if request.param == "plain" else asynchronous


def texts(outcomes):
    return [outcome.caption.text for outcome in outcomes]


def test_outcomes_come_in_order_whichever_is_done_first(many, script):
    images = [script(captions=[str(i)], delay_s=0.3 - i / 20) for i in range(6)]
    outcomes = many(images, concurrency=3)
    assert texts(outcomes) == [str(i) for i in range(6)]
    assert [(outcome.index, outcome.image) for outcome in outcomes] == list(enumerate(images))


def test_outcomes_come_as_completed_where_order_does_not_matter(many, script, held):
    slow, let_go = held(captions=["slow"])
    images = [slow, *[script(captions=[str(i)]) for i in range(5)]]
    seen = []

    def after_five(outcome):
        seen.append(outcome)
        if len(seen) == 5:
            let_go()

    outcomes = many(images, seen=after_five, concurrency=2, in_order=False)
    assert texts(outcomes)[-1] == "slow"
    assert sorted(outcome.index for outcome in outcomes) == list(range(6))


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("in_order", [True, False])
def test_the_requests_in_flight_are_bounded_and_used(many, script, concurrency, in_order):
    own = {"group": str(uuid.uuid4()), "until": concurrency}
    outcomes = many([script(echo=True, **own, delay_s=0.1)] * 12, concurrency=concurrency, in_order=in_order)
    assert max(json.loads(text)["in_flight"] for text in texts(outcomes)) == concurrency


def test_an_image_that_fails_does_not_end_it(many, script, tmp_path):
    bad = script(error="TRUNCATED_IMAGE: it ends early")
    good, truncated, missing, nothing = many([b"an image", bad, tmp_path / "missing.jpg", object()])
    assert good.error is None
    assert isinstance(truncated.error, TruncatedImageError)
    assert isinstance(missing.error, FileNotFoundError)
    assert isinstance(nothing.error, TypeError)
    assert truncated.captions == ()
    with pytest.raises(TruncatedImageError):
        _ = truncated.caption


class Failing:
    """A file that fails as reading one does that memory cannot hold."""

    def read(self, _size=-1):
        raise MemoryError


def test_nor_does_one_that_memory_cannot_hold(many):
    huge, good = many([Failing(), b"an image"])
    assert isinstance(huge.error, MemoryError)
    assert good.error is None


def test_options_are_those_of_captions(many):
    [outcome] = many([b"an image"], num_captions=3, details=True)
    assert len(outcome.captions) == 3
    assert outcome.caption.timing_ms


def test_nothing_gives_nothing(many):
    assert many([]) == []


@pytest.mark.parametrize(
    ("options", "error"), [({"concurrency": 0}, ValueError), ({"beams": 3}, InvalidParameterError)]
)
def test_what_all_would_be_refused_for_is_refused_at_once(many, options, error):
    with pytest.raises(error):
        many([b"an image"], **options)


class Counted:
    """A thousand images that count how many were taken."""

    def __init__(self):
        self.taken = 0

    def __iter__(self):
        for i in range(1000):
            self.taken += 1
            yield f"image {i}".encode()


@pytest.mark.parametrize("in_order", [True, False])
def test_a_slow_consumer_slows_the_reading(scripted, in_order):
    images = Counted()
    with Captioner(scripted.grpc) as captioner:
        outcomes = captioner.caption_many(images, concurrency=4, in_order=in_order)
        assert images.taken == 0
        for consumed in range(1, 50):
            next(outcomes)
            assert images.taken <= consumed + 2 * 4
        outcomes.close()


def test_a_slow_asynchronous_consumer_slows_the_reading(scripted):
    async def run():
        images = Counted()
        async with AsyncCaptioner(scripted.grpc) as captioner:
            consumed = 0
            outcomes = captioner.caption_many(images, concurrency=4)
            async for _ in outcomes:
                consumed += 1
                assert images.taken <= consumed + 2 * 4
                await asyncio.sleep(0.001)
                if consumed == 50:
                    break
            await outcomes.aclose()
            assert images.taken < 60

    asyncio.run(run())


def test_an_asynchronous_iterable_is_read_as_well(scripted, script):
    async def images():
        for i in range(5):
            await asyncio.sleep(0)
            yield script(captions=[str(i)])

    async def run():
        async with AsyncCaptioner(scripted.grpc) as captioner:
            return [outcome.caption.text async for outcome in captioner.caption_many(images())]

    assert asyncio.run(run()) == list("01234")


@pytest.mark.parametrize("in_order", [True, False])
def test_an_outcome_does_not_wait_for_the_next_image(scripted, in_order):
    """Here the next image is given when the outcome before it is there."""

    async def run():
        answered = asyncio.Semaphore(1)

        async def images():
            for i in range(5):
                await answered.acquire()
                yield f"image {i}".encode()

        async with AsyncCaptioner(scripted.grpc) as captioner:
            outcomes = []
            async for outcome in captioner.caption_many(images(), in_order=in_order):
                outcomes.append(outcome.index)
                answered.release()
            return outcomes

    assert asyncio.run(asyncio.wait_for(run(), 120)) == list(range(5))


@pytest.mark.parametrize("in_order", [True, False])
def test_an_outcome_does_not_wait_for_more_than_one_image(in_order):
    def images():
        for i in range(20):
            eventually(lambda: len(answered) == i)  # noqa: B023
            time.sleep(0.2)  # the answer's way back
            taken.append(i)
            yield b"an image"

    def behave(request, context):
        context.add_callback(lambda: answered.append(request))
        return one_caption(request, context)

    taken, answered = [], []
    with grpc_server(behave) as url, Captioner(url) as captioner:
        for outcome in captioner.caption_many(images(), in_order=in_order):
            assert len(taken) <= outcome.index + 4


def test_nor_does_it_wait_for_images_that_are_awaited(scripted):
    answered = queue.SimpleQueue()

    def images():
        for i in range(5):
            yield f"image {i}".encode()
            answered.get(timeout=120)
        raise KeyError("mine")

    with Captioner(scripted.grpc) as captioner, pytest.raises(KeyError, match="mine"):
        for outcome in captioner.caption_many(Awaited(images())):
            answered.put(outcome.index)


def test_ending_early_while_the_next_image_is_awaited_leaves_no_task(scripted):
    ended, awaited = [], []

    async def images():
        yield b"an image"
        try:
            awaited.append(True)
            await asyncio.sleep(600)
        finally:
            ended.append(True)

    async def run():
        async with AsyncCaptioner(scripted.grpc) as captioner:
            before = asyncio.all_tasks()
            outcomes = captioner.caption_many(images())
            await outcomes.__anext__()
            await outcomes.aclose()
            assert ended
            taking = asyncio.ensure_future(_collect(captioner.caption_many(images())))
            while len(awaited) < 2:
                await asyncio.sleep(0.01)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
            assert ended == [True, True]
            return asyncio.all_tasks() - before

    assert asyncio.run(run()) == set()


async def _collect(outcomes):
    return [outcome async for outcome in outcomes]


def test_ending_early_cancels_what_is_in_flight(scripted, script):
    own = {"group": str(uuid.uuid4())}
    with Captioner(scripted.grpc) as captioner:

        def cancelled():
            return json.loads(captioner.caption(script(**own, echo=True)).text)["cancelled"]

        # The first is answered when all have come, the others later.
        images = [script(**own, until=4), *[script(**own, until=4, delay_s=5)] * 3]
        outcomes = captioner.caption_many(images, concurrency=4)
        next(outcomes)
        outcomes.close()
        eventually(lambda: cancelled() == 3)


def test_an_error_of_the_iterable_itself_is_the_callers(many):
    def images():
        yield b"an image"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        many(images())


def test_overload_is_weathered(url):
    """More in flight than the server takes: the retries have every image captioned in the end."""
    with Captioner(url, model="narrow", timeout=300, retry=Retry(attempts=1000, longest_pause=0.5)) as captioner:
        outcomes = list(captioner.caption_many([b"an image"] * 6, concurrency=4))
    assert [outcome.error for outcome in outcomes] == [None] * 6


def test_results_that_are_gone_are_not_kept():
    """No kind of object grows with the images captioned; all together vary with what is just in flight."""
    with grpc_server(one_caption) as url, Captioner(url) as captioner:
        alive = []
        for outcome in captioner.caption_many((b"an image" for _ in range(2000)), in_order=False):
            if outcome.index in (500, 1900):
                del outcome
                gc.collect()
                alive.append(Counter(map(type, gc.get_objects())))
    grown = alive[1] - alive[0]
    assert max(grown.values()) < 1000, grown.most_common(5)
