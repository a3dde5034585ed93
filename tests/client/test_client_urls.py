"""An image may be a URL: this client fetches it, limited in size and time, and from public addresses alone if told."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ofa_client import (
    AsyncCaptioner,
    Captioner,
    DeadlineExceededError,
    ImageFetchError,
    ImageTooLargeError,
    Retry,
    fetch,
)

from nonsense_servers import InTurn, grpc_server, http_answer, http_server, one_caption


def page(status, body=b"", headers=""):
    return http_answer(status, "", headers).replace(b"Content-Length: 0", b"Content-Length: %d" % len(body)) + body


def test_an_image_is_fetched_and_captioned(captioner, script):
    with http_server(page("200 OK", script(captions=["a cat"]))) as images:
        assert captioner.caption(f"{images}/cat.jpg").text == "a cat"


def test_a_redirect_is_followed(captioner, script):
    answers = InTurn(page("302 Found", headers="Location: /there\r\n"), page("200 OK", script(captions=["a cat"])))
    with http_server(answers) as images:
        assert captioner.caption(f"{images}/cat.jpg").text == "a cat"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page("404 Not Found"), "answered with status 404"),
        (page("302 Found", headers="Location: /again\r\n"), "redirects more than 5 times"),
        (page("302 Found", headers="Location: file:///etc/passwd\r\n"), "does not lead to an http"),
        (b"", "cannot be fetched"),
        (b"SSH-2.0\r\n", "cannot be fetched"),
    ],
)
def test_what_is_no_image_there_is_said(captioner, answer, reason):
    with http_server(answer) as images, pytest.raises(ImageFetchError, match=reason):
        captioner.caption(f"{images}/cat.jpg")


def test_an_endless_image_is_cut_off(captioner):
    with http_server(page("200 OK", bytes(21 * 2**20))) as images, pytest.raises(ImageTooLargeError, match="20 MiB"):
        captioner.caption(f"{images}/cat.jpg")


@pytest.mark.parametrize("encoding", ["gzip", "Deflate", "br", "zstd"])
def test_what_was_compressed_unasked_is_not_blown_up(captioner, encoding):
    answer = page("200 OK", gzip.compress(bytes(21 * 2**20)), f"Content-Encoding: {encoding}\r\n")
    with http_server(answer) as images, pytest.raises(ImageFetchError, match="gave a compressed answer"):
        captioner.caption(f"{images}/cat.jpg")


def test_another_encoding_is_only_a_name(captioner, script):
    """Some object stores keep what an upload had."""
    answer = page("200 OK", script(captions=["a cat"]), "Content-Encoding: aws-chunked\r\n")
    with http_server(answer) as images:
        assert captioner.caption(f"{images}/cat.jpg").text == "a cat"


def test_no_compression_is_asked_for_and_no_cookie_kept(captioner, script):
    class Images(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers)
            self.wfile.write(page("200 OK", script(captions=["a cat"]), "Set-Cookie: visitor=1; Path=/\r\n"))

        def log_message(self, *_):
            pass

    asked = []
    with HTTPServer(("127.0.0.1", 0), Images) as images:
        serving = threading.Thread(target=images.serve_forever)
        serving.start()
        try:
            for i in range(2):  # aiohttp's cookies are those of names
                assert captioner.caption(f"http://localhost:{images.server_port}/{i}.jpg").text == "a cat"
        finally:
            images.shutdown()
            serving.join()
    assert [(each["Accept-Encoding"], each["Cookie"]) for each in asked] == [("identity", None)] * 2


def test_fetching_counts_against_the_deadline(captioner):
    with http_server(None) as images, pytest.raises(DeadlineExceededError, match=r"not fetched within 0\.3 seconds"):
        captioner.caption(f"{images}/cat.jpg", timeout=0.3)


def test_a_host_that_is_away_is_said(captioner, closed_port):
    with pytest.raises(ImageFetchError, match=r"cannot be fetched \(Connection refused\)"):
        captioner.caption(f"http://127.0.0.1:{closed_port}/cat.jpg")


@pytest.mark.parametrize("trouble", [page("503 Service Unavailable"), page("429 Too Many Requests"), b""])
def test_a_host_that_is_full_or_away_is_asked_again(captioner, script, trouble):
    answers = InTurn(trouble, trouble, page("200 OK", script(captions=["a cat"])))
    with http_server(answers) as images:
        assert captioner.caption(f"{images}/cat.jpg").text == "a cat"
    assert answers.requests == 3


def test_one_that_has_no_such_image_is_not(captioner):
    answers = InTurn(page("404 Not Found"))
    with http_server(answers) as images, pytest.raises(ImageFetchError):
        captioner.caption(f"{images}/cat.jpg")
    assert answers.requests == 1


def test_a_host_that_stays_away_is_given_up_where_others_are_there(url):
    """All others being away as well, it would be tried for as long as the patience lasts."""
    bad, good = InTurn(page("503 Service Unavailable")), page("200 OK", b"an image")
    patient = Retry(attempts=1_000_000, first_pause=0.01, longest_pause=0.05, patience=1000)
    with http_server(bad) as away, http_server(good) as there, Captioner(url, timeout=2000, retry=patient) as captioner:
        images = [f"{away}/cat.jpg", *[f"{there}/{i}.jpg" for i in range(60)]]
        outcomes = captioner.caption_many(images, concurrency=2, in_order=False)
        failed = [outcome.error for outcome in outcomes if outcome.error]
    assert [type(error) for error in failed] == [ImageFetchError]
    assert 5 <= bad.requests < 60


def test_the_time_is_for_all_redirects_together(monkeypatch):
    def slow():
        time.sleep(0.4)
        return page("302 Found", headers="Location: /again\r\n")

    monkeypatch.setattr(fetch, "FETCH_SECONDS", 1.0)
    with (
        http_server(slow) as images,
        Captioner("grpc://127.0.0.1:1", retry=None) as captioner,
        pytest.raises(ImageFetchError, match="gave no image within 1 seconds"),
    ):
        captioner.caption(f"{images}/cat.jpg")


def test_waiting_for_others_does_not_count_against_it(monkeypatch):
    def slow():
        time.sleep(1)
        return page("200 OK", b"an image")

    monkeypatch.setattr(fetch, "FETCH_SECONDS", 4.0)
    monkeypatch.setattr(fetch, "_AT_ONCE", 1, raising=False)
    with http_server(slow) as images, grpc_server(one_caption) as url, Captioner(url, retry=None) as captioner:
        outcomes = list(captioner.caption_many([f"{images}/{i}.jpg" for i in range(6)], concurrency=6))
    assert [outcome.error for outcome in outcomes] == [None] * 6


def test_names_that_never_resolve_do_not_keep_others_waiting(monkeypatch):
    def getaddrinfo(host, *arguments, **settings):
        if host.endswith(".invalid"):
            given_up.wait(600)
        return resolve(host, *arguments, **settings)

    async def main(url, images):
        async with AsyncCaptioner(url, timeout=300) as captioner:
            dead = [asyncio.ensure_future(captioner.caption(f"http://{i}.invalid/cat.jpg")) for i in range(12)]
            await asyncio.sleep(0.5)
            try:
                return await captioner.caption(f"{images.replace('127.0.0.1', 'localhost')}/cat.jpg")
            finally:
                for each in dead:
                    each.cancel()
                await asyncio.gather(*dead, return_exceptions=True)
                given_up.set()

    given_up, resolve = threading.Event(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with http_server(page("200 OK", b"an image")) as images, grpc_server(one_caption) as url:
        assert asyncio.run(main(url, images)).text == "a cat"


NOT_PUBLIC = [
    *["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"],
    *["0x7f.1", "127.1", "2130706433", "127.0.0.1."],
    *["127。0。0。1", "１２７.0.0.1", "169。254。169。254", "①②⑦.0.0.1"],  # noqa: RUF001 - what a URL makes of them
    *["[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::1]", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]"],
    *["[fec0::1]", "[::7f00:1]", "[fe80::1%25eth0]"],
]


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_a_service_refuses_addresses_that_are_not_public(url, host):
    with (
        Captioner(url, public_urls_only=True) as captioner,
        pytest.raises(ImageFetchError, match="not a public address"),
    ):
        captioner.caption(f"http://{host}:1/cat.jpg")


@pytest.mark.parametrize("host", ["169。254。169。254", "[64:ff9b::a00:1]", "10.0.0.1", "localhost"])
def test_nor_is_it_led_to_one(url, host, monkeypatch):
    answers = InTurn(page("302 Found", headers=f"Location: http://{host}:1/cat.jpg\r\n"))
    public = getattr(fetch, "_is_public", None)
    monkeypatch.setattr(fetch, "_is_public", lambda address: address == "127.0.0.1" or public(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(socket.AF_INET, 0, 0, "", ("10.0.0.1", 1))])
    with (
        http_server(answers) as images,
        Captioner(url, public_urls_only=True) as captioner,
        pytest.raises(ImageFetchError, match="not a public address"),
    ):
        captioner.caption(f"{images}/cat.jpg")
    assert answers.requests == 1


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111"])
def test_what_is_public_is_not_refused(address):
    assert fetch._is_public(address)
