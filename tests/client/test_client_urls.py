"""An image may be a URL: this client fetches it, limited in size and time, and from public addresses alone if told."""

from __future__ import annotations

import pytest
from ofa_client import Captioner, DeadlineExceededError, ImageFetchError, ImageTooLargeError

from nonsense_servers import InTurn, http_answer, http_server


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


def test_fetching_counts_against_the_deadline(captioner):
    with http_server(None) as images, pytest.raises(DeadlineExceededError, match=r"not fetched within 0\.3 seconds"):
        captioner.caption(f"{images}/cat.jpg", timeout=0.3)


def test_a_host_that_is_away_is_said(captioner, closed_port):
    with pytest.raises(ImageFetchError, match=r"cannot be fetched \(Connection refused\)"):
        captioner.caption(f"http://127.0.0.1:{closed_port}/cat.jpg")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "0x7f.1"])
def test_a_service_refuses_addresses_that_are_not_public(url, host):
    with (
        Captioner(url, public_urls_only=True) as captioner,
        pytest.raises(ImageFetchError, match="not a public address"),
    ):
        captioner.caption(f"http://{host}:1/cat.jpg")
