"""Against servers that are missing, silent, restarting or speaking nonsense: the promised error, never a hang."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time

import grpc
import pytest
from ofa_client import AsyncCaptioner, Captioner, errors

from nonsense_servers import InTurn, grpc_server, http_answer, http_server, one_caption, refuse

IMAGE = b"an image"


def caption(url, **settings):
    with Captioner(url, **{"timeout": 60, "retry": None, **settings}) as captioner:
        return captioner.caption(IMAGE)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_listens(scheme, closed_port):
    url = f"{scheme}://127.0.0.1:{closed_port}"
    with pytest.raises(errors.ServiceUnavailableError, match=rf"{url} \(.*Connection refused.*\)"):
        caption(url)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_such_host(scheme):
    with pytest.raises((errors.ServiceUnavailableError, errors.DeadlineExceededError)):
        caption(f"{scheme}://no-such-host.invalid:8001", timeout=5)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_silent_server_costs_the_timeout_and_no_more(scheme):
    with http_server(None) as url, pytest.raises(errors.DeadlineExceededError, match=r"within 0\.\d+ seconds"):
        caption(url.replace("http", scheme), timeout=0.5)


def test_a_server_that_hangs_up():
    with http_server(b"") as url, pytest.raises(errors.ServiceUnavailableError):
        caption(url)


@pytest.mark.parametrize(
    "answer",
    [
        http_answer("200 OK", "<html>Welcome</html>"),
        http_answer("200 OK", ""),
        http_answer("200 OK", "[]"),
        http_answer("200 OK", "{}"),
        http_answer("200 OK", '{"outputs": [{"name": "caption", "shape": [1, 1]}]}'),
        http_answer("200 OK", '{"outputs": 5}', "Inference-Header-Content-Length: 14\r\n"),
        http_answer("200 OK", '{"outputs": []}', "Inference-Header-Content-Length: many\r\n"),
        http_answer("302 Found", "", "Location: /v2/elsewhere\r\n"),
        http_answer("418 I'm a teapot", '{"error": {"not": "a text"}}'),
        b"SSH-2.0-OpenSSH_9.0\r\n",
    ],
)
def test_nonsense_over_http(answer):
    with http_server(answer) as url, pytest.raises(errors.UnexpectedResponseError):
        caption(url)


def test_an_answer_cut_short():
    cut = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"outputs": ['
    with http_server(cut) as url, pytest.raises(errors.ServiceUnavailableError):
        caption(url)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 Unauthorized", errors.AccessRefusedError),
        ("403 Forbidden", errors.AccessRefusedError),
        ("404 Not Found", errors.ModelNotFoundError),
        ("413 Request Entity Too Large", errors.ImageTooLargeError),
        ("429 Too Many Requests", errors.OverloadedError),
        ("502 Bad Gateway", errors.ServiceUnavailableError),
        ("503 Service Unavailable", errors.ServiceUnavailableError),
        ("504 Gateway Timeout", errors.DeadlineExceededError),
    ],
)
def test_a_proxys_page_is_judged_by_its_status(status, kind):
    page = f"<html>{status}</html>"
    with http_server(http_answer(status, page)) as url, pytest.raises(kind) as caught:
        caption(url)
    assert "html" not in str(caught.value)


def test_a_restricted_http_api_is_no_outage():
    refusal = '{"error":"This API is restricted, expecting header \'key\'"}'
    with http_server(http_answer("403 Forbidden", refusal)) as url, pytest.raises(errors.AccessRefusedError):
        caption(url)


def test_a_restricted_grpc_protocol_is_no_outage():
    behave = refuse(
        grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"
    )
    with grpc_server(behave) as url, pytest.raises(errors.AccessRefusedError):
        caption(url)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, errors.AccessRefusedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.AccessRefusedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnexpectedResponseError),
        (grpc.StatusCode.CANCELLED, errors.ServiceUnavailableError),
        (grpc.StatusCode.DATA_LOSS, errors.UnexpectedResponseError),
    ],
)
def test_a_grpc_status(status, kind):
    with grpc_server(refuse(status, "said in words")) as url, pytest.raises(kind, match="said in words"):
        caption(url)


def no_outputs(request, context):
    response = one_caption(request, context)
    del response.outputs[:], response.raw_output_contents[:]
    return response


def no_text(request, context):
    response = one_caption(request, context)
    response.raw_output_contents[0] = b"\x02\0\0\0\xff\xfe"
    return response


def no_batch(request, context):
    response = one_caption(request, context)
    response.outputs[0].shape[:] = [1]
    return response


def no_number(request, context):
    response = one_caption(request, context)
    response.raw_output_contents[1] = b"\0\0\xc0\x7f"
    return response


def wrong_size(request, context):
    response = one_caption(request, context)
    response.raw_output_contents[1] = b"\0\0\0\0\0"
    return response


def wrong_type(request, context):
    response = one_caption(request, context)
    response.outputs[0].datatype = "FP32"
    response.raw_output_contents[0] = b"\0\0\0\0"
    return response


@pytest.mark.parametrize("behave", [no_outputs, no_text, no_batch, no_number, wrong_size, wrong_type])
def test_nonsense_over_grpc(behave):
    with grpc_server(behave) as url, pytest.raises(errors.UnexpectedResponseError):
        caption(url)


def test_scores_that_do_not_fit_the_captions(captioner, script):
    with pytest.raises(errors.UnexpectedResponseError, match="1 captions with the scores"):
        captioner.caption(script(captions=["a cat"], scores=[-1, -2]))


def test_no_captions_at_all():
    def behave(request, context):
        response = one_caption(request, context)
        for i, tensor in enumerate(response.outputs):
            tensor.shape[:] = [1, 0]
            response.raw_output_contents[i] = b""
        return response

    with grpc_server(behave) as url, pytest.raises(errors.UnexpectedResponseError):
        caption(url)


def test_http_spoken_to_a_grpc_port(scripted):
    with pytest.raises((errors.UnexpectedResponseError, errors.ServiceUnavailableError)):
        caption(scripted.grpc.replace("grpc", "http"))


def test_grpc_spoken_to_an_http_port(scripted):
    with pytest.raises((errors.UnexpectedResponseError, errors.ServiceUnavailableError, errors.DeadlineExceededError)):
        caption(scripted.http.replace("http", "grpc"))


def test_a_server_that_comes_back_is_used_again():
    with grpc_server(one_caption) as url:
        captioner = Captioner(url, timeout=60, retry=None)
        assert captioner.caption(IMAGE).text == "a cat"
    with captioner:
        with pytest.raises(errors.ServiceUnavailableError):
            captioner.caption(IMAGE)
        with grpc_server(one_caption, port=int(url.rpartition(":")[2])):
            assert caption_when_back(captioner, seconds=120).text == "a cat"


def caption_when_back(captioner, seconds):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return captioner.caption(IMAGE)
        except errors.ServiceUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class SlowFile:
    """A binary file on a disk or a connection that takes its time, or fails as a socket does."""

    def __init__(self, seconds, error=None):
        self.seconds = seconds
        self.error = error
        self.given_up = threading.Event()
        self.content = io.BytesIO(IMAGE)

    def read(self, size=-1):
        self.given_up.wait(self.seconds)
        if self.error:
            raise self.error
        self.seconds = 0
        return self.content.read(size)


def test_a_file_that_never_ends_costs_the_timeout_and_no_more(closed_port):
    async def main():
        file = SlowFile(600)
        async with AsyncCaptioner(f"grpc://127.0.0.1:{closed_port}") as captioner:
            try:
                with pytest.raises(errors.DeadlineExceededError, match=r"the image was not read within 0\.2 seconds"):
                    await captioner.caption(file, timeout=0.2)
            finally:
                file.given_up.set()

    asyncio.run(asyncio.wait_for(main(), 300))


@pytest.fixture
def pipe(tmp_path):
    """A file that nobody ever writes to."""
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # whoever waits for a writer has one


def test_so_it_is_without_asyncio(pipe, closed_port):
    with (
        Captioner(f"grpc://127.0.0.1:{closed_port}") as captioner,
        pytest.raises(errors.DeadlineExceededError, match=r"pipe\.jpg was not read within 0\.2 seconds"),
    ):
        captioner.caption(pipe, timeout=0.2)


def test_files_that_never_end_keep_no_other_waiting(pipe, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(IMAGE)

    async def main(url):
        async with AsyncCaptioner(url, timeout=300) as captioner:
            stuck = [asyncio.ensure_future(captioner.caption(pipe)) for _ in range(40)]
            await asyncio.sleep(0.5)
            try:
                return await captioner.caption(tmp_path / "photo.jpg")
            finally:
                for each in stuck:
                    each.cancel()

    with grpc_server(one_caption) as url:
        assert asyncio.run(main(url)).text == "a cat"


def test_a_file_that_took_the_timeout_to_read_is_not_sent():
    behave = InTurn(one_caption)
    with grpc_server(behave) as url, Captioner(url, timeout=0.2) as captioner:
        for call in (captioner.caption, captioner.captions):
            with pytest.raises(errors.DeadlineExceededError, match=r"the image was not read within 0\.2 seconds"):
                call(SlowFile(0.3))
    assert behave.requests == 0


def test_reading_counts_against_the_deadline():
    left = []

    def behave(request, context):
        left.append(context.time_remaining())
        return one_caption(request, context)

    with grpc_server(behave) as url, Captioner(url) as captioner:
        captioner.caption(SlowFile(0.5), timeout=90)
        captioner.captions(SlowFile(0.5), timeout=90)
    assert len(left) == 2
    assert 45 < min(left) <= max(left) < 89.6


def test_a_files_own_timeout_is_not_the_deadlines(closed_port):
    async def main():
        async with AsyncCaptioner(f"grpc://127.0.0.1:{closed_port}") as captioner:
            await captioner.caption(SlowFile(0, asyncio.TimeoutError("the disk is gone")))

    with pytest.raises(asyncio.TimeoutError, match="the disk is gone"):
        asyncio.run(main())
