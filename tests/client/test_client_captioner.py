"""One call captions one image, the same over gRPC and HTTP, with and without asyncio."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import inspect
import json
import math
import multiprocessing
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from ofa_client import AsyncCaptioner, Caption, Captioner, DeadlineExceededError, InvalidParameterError, Retry
from ofa_client.endpoint import Endpoint

from patience import eventually


def expected_text(image, i=0):
    return f"image {hashlib.sha256(image).hexdigest()[:12]}, caption {i}"


def echoed(caption):
    return json.loads(caption.text)


def test_caption_returns_text_and_score(captioner):
    assert captioner.caption(b"an image") == Caption(text=expected_text(b"an image"), score=-0.25)


def test_the_server_gets_the_images_bytes(captioner, tmp_path):
    every_byte = bytes(range(256)) * 5000  # over a megabyte, zeros and newlines among it
    path = tmp_path / "photo.jpg"
    path.write_bytes(every_byte)
    assert captioner.caption(path).text == expected_text(every_byte)


def test_no_bytes_reach_the_server_as_well(captioner):
    assert captioner.caption(b"").text == expected_text(b"")


def test_captions_returns_the_best_first(captioner):
    assert captioner.captions(b"an image", num_captions=3) == [
        Caption(text=expected_text(b"an image", i), score=-0.25 * (i + 1)) for i in range(3)
    ]


def test_captions_that_the_search_did_not_find_are_left_out(captioner, script):
    image = script(captions=["a cat", "", ""], scores=[-0.5, -math.inf, -math.inf])
    assert captioner.captions(image, num_captions=3) == [Caption(text="a cat", score=-0.5)]


def test_a_caption_may_be_any_text(captioner, script):
    texts = ["图片描述了什么内容", "", "naïve 🍩", "two\nlines"]
    captions = captioner.captions(script(captions=texts))
    assert [caption.text for caption in captions] == texts


def test_details_name_tokens_and_stages(captioner):
    first, second = captioner.captions(b"an image", num_captions=2, details=True)
    assert (first.tokens, first.token_logprobs) == ((4, 5, 2), (-0.5, -0.5, -0.5))
    assert (second.tokens, second.token_logprobs) == ((4, 5, 6, 2), (-0.5, -0.5, -0.5, -0.5))
    stages = {"preprocess_queue": 0.5, "preprocess": 1, "encode": 2, "search_queue": 3, "search": 4}
    assert first.timing_ms == second.timing_ms == stages


def test_all_options_reach_the_server(captioner, script):
    priority = {"priority_class": "batch"}
    integers = {"beam_size": 8, "max_length": 20, "min_length": 2, "no_repeat_ngram_size": 0}
    decimals = {"length_penalty": 0.5, "temperature": 1.25, "unk_penalty": 3}
    [caption] = captioner.captions(script(echo=True), num_captions=4, **integers, **decimals, **priority)
    received = echoed(caption)["parameters"]
    assert received.pop("priority_class") == "batch"
    assert {name: float(value) for name, value in received.items()} == {"num_captions": 4, **integers, **decimals}


def test_what_is_not_asked_for_is_the_checkpoints_default(captioner, script):
    [caption] = captioner.captions(script(echo=True))
    assert echoed(caption)["parameters"] == {}


def test_caption_asks_for_one_and_takes_no_number(captioner, script):
    assert echoed(captioner.caption(script(echo=True)))["parameters"] == {"num_captions": "1"}
    with pytest.raises(InvalidParameterError, match=r"captions\(\)"):
        captioner.caption(b"an image", num_captions=2)


def test_an_unknown_option_is_refused(captioner):
    with pytest.raises(InvalidParameterError, match="beams"):
        captioner.caption(b"an image", beams=2)


def test_the_server_is_told_the_deadline(url, script):
    with Captioner(url, timeout=200) as captioner:
        assert 150_000_000 < echoed(captioner.caption(script(echo=True)))["timeout_us"] <= 200_000_000
        assert 50_000_000 < echoed(captioner.caption(script(echo=True), timeout=100))["timeout_us"] <= 100_000_000


def test_a_passed_deadline_is_an_error_and_the_next_request_works(captioner, script):
    with pytest.raises(DeadlineExceededError, match=r"gave no answer within 0\.\d+ seconds"):
        captioner.caption(script(delay_s=5), timeout=0.3)
    assert captioner.caption(b"an image").text == expected_text(b"an image")


def test_over_grpc_a_passed_deadline_cancels_on_the_server(scripted, script):
    own = {"group": str(uuid.uuid4())}
    with Captioner(scripted.grpc) as captioner:
        with pytest.raises(DeadlineExceededError):
            captioner.caption(script(**own, delay_s=4), timeout=3)
        eventually(lambda: echoed(captioner.caption(script(**own, echo=True)))["cancelled"] == 1)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 86_401])
def test_a_timeout_that_makes_no_sense_is_refused(url, timeout):
    with pytest.raises(ValueError, match="a timeout is above 0"):
        Captioner(url, timeout=timeout)
    with Captioner(url) as captioner, pytest.raises(ValueError, match="a timeout is above 0"):
        captioner.caption(b"an image", timeout=timeout)


def test_both_captioners_take_the_same_arguments():
    for name in ("__init__", "caption", "captions", "caption_many"):
        plain, asynchronous = (inspect.signature(getattr(kind, name)) for kind in (Captioner, AsyncCaptioner))
        same = {key: value.replace(annotation=None) for key, value in plain.parameters.items()}
        assert same == {key: value.replace(annotation=None) for key, value in asynchronous.parameters.items()}


def test_threads_share_a_captioner(captioner):
    images = [f"image {i}".encode() for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        captions = list(pool.map(captioner.caption, images))
    assert [caption.text for caption in captions] == [expected_text(image) for image in images]


def test_asyncio_has_the_same_methods(run_async, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"an image")

    async def use(captioner):
        return await captioner.caption(path), await captioner.captions(b"an image", num_captions=2, details=True)

    best, two = run_async(use)
    assert best == Caption(text=expected_text(b"an image"), score=-0.25)
    assert [(caption.text, len(caption.tokens)) for caption in two] == [
        (expected_text(b"an image", 0), 3),
        (expected_text(b"an image", 1), 4),
    ]


def test_asyncio_requests_run_side_by_side(run_async, script):
    image = script(group=str(uuid.uuid4()), until=8, echo=True)  # none is answered before all have come

    async def use(captioner):
        return await asyncio.gather(*(captioner.caption(image) for _ in range(8)))

    assert sorted(echoed(caption)["in_flight"] for caption in run_async(use)) == list(range(1, 9))


def test_a_cancelled_task_leaves_the_captioner_usable(run_async, script):
    async def use(captioner):
        task = asyncio.ensure_future(captioner.caption(script(delay_s=5)))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await captioner.caption(b"an image")

    assert run_async(use).text == expected_text(b"an image")


def test_the_plain_captioner_works_inside_a_running_loop(captioner):
    async def main():
        return captioner.caption(b"an image")

    assert asyncio.run(main()).text == expected_text(b"an image")


def test_a_closed_captioner_says_so(url):
    captioner = Captioner(url)
    captioner.caption(b"an image")
    captioner.close()
    captioner.close()
    with pytest.raises(RuntimeError, match="closed"):
        captioner.caption(b"an image")


def test_a_closed_asynchronous_captioner_says_so(url):
    async def main():
        captioner = AsyncCaptioner(url)
        await captioner.close()
        await captioner.close()
        with pytest.raises(RuntimeError, match="closed"):
            await captioner.caption(b"an image")

    asyncio.run(main())


@pytest.mark.parametrize("retry", [None, Retry()])
def test_closing_is_an_error_to_who_waits_and_no_cancel(url, script, retry):
    async def main():
        captioner = AsyncCaptioner(url, retry=retry)
        waiting = [asyncio.ensure_future(captioner.caption(script(delay_s=30))) for _ in range(3)]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        await captioner.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    cancelled, *others = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [(type(error), str(error)) for error in others] == [(RuntimeError, "this captioner is closed")] * 2


@pytest.mark.parametrize("image", [b"an image", "http://127.0.0.1:{port}/photo.jpg"], ids=["to send", "to fetch"])
def test_nor_does_a_close_wait_for_the_next_attempt(closed_port, image):
    if isinstance(image, str):
        image = image.format(port=closed_port)

    async def main():
        captioner = AsyncCaptioner(f"http://127.0.0.1:{closed_port}", retry=Retry(first_pause=1000, longest_pause=1000))
        waiting = asyncio.ensure_future(captioner.caption(image, timeout=10_000))
        await asyncio.sleep(1)
        await captioner.close()
        return await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 60)

    [error] = asyncio.run(main())
    assert (type(error), str(error)) == (RuntimeError, "this captioner is closed")


@pytest.mark.parametrize("retry", [None, Retry()])
def test_so_it_is_to_a_thread_that_waits(url, script, retry):
    captioner = Captioner(url, retry=retry)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(captioner.caption, script(delay_s=30)) for _ in range(2)]
        time.sleep(0.5)
        captioner.close()
        for each in waiting:
            with pytest.raises(RuntimeError, match="this captioner is closed"):
                each.result()


@pytest.mark.parametrize("in_order", [True, False])
def test_and_to_one_that_captions_many(url, script, in_order):
    captioner = Captioner(url, retry=None)
    outcomes = captioner.caption_many([script(), *[script(delay_s=30)] * 3], in_order=in_order)
    assert next(outcomes).error is None
    threading.Timer(0.5, captioner.close).start()
    with pytest.raises(RuntimeError, match="this captioner is closed"):
        list(outcomes)


@pytest.fixture
def own_threads():
    """The threads of clients made since: one that an earlier test left may end at any moment."""
    earlier = threading.enumerate()
    return lambda: [t for t in threading.enumerate() if t.name == "ofa-client" and t not in earlier]


def test_close_ends_the_captioners_thread(url, own_threads):
    with Captioner(url) as captioner:
        captioner.caption(b"an image")
        assert len(own_threads()) == 1
    assert not own_threads()


def test_a_forgotten_captioner_ends_its_thread(url, own_threads):
    captioner = Captioner(url)
    captioner.caption(b"an image")
    assert len(own_threads()) == 1
    del captioner
    gc.collect()
    eventually(lambda: not own_threads())


def _complaint_in_child(captioner, answers):
    try:
        captioner.caption(b"an image")
    except RuntimeError as error:
        answers.put(str(error))


def test_a_forked_process_is_told_to_make_its_own(closed_port):
    captioner = Captioner(f"http://127.0.0.1:{closed_port}")
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=_complaint_in_child, args=(captioner, answers))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert "does not survive a fork" in answers.get()
    captioner.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://host:9001", "host:9001"),
        ("grpc://host", "host:8001"),
        ("http://host", "host:8000"),
        ("https://host", "host:443"),
        ("grpcs://host", "host:443"),
        ("http://host:80/behind/proxy/", "host:80/behind/proxy"),
        ("grpc://[::1]:8001", "[::1]:8001"),
    ],
)
def test_addresses(url, address):
    assert Endpoint.parse(url).address == address


NO_ADDRESSES = ["host:1", "ftp://a", "grpc://", "http://me:word@a", "grpc://a/path", "http://a?x=1", "grpc://a:x", ""]


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_another_address_is_refused_when_the_captioner_is_made(url):
    with pytest.raises(ValueError, match="address"):
        Captioner(url)
