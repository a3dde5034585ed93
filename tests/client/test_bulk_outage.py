"""What is held back when the inputs end: the failure of a host that may come back, or the image's own."""

from __future__ import annotations

import socket

import pytest
from ofa_client import Captioner, Retry, errors
from ofa_client.bulk.items import Inputs
from ofa_client.bulk.outage import OutageError, Suspects
from ofa_client.bulk.output import Files, OutputFiles
from ofa_client.bulk.run import caption_items
from ofa_client.bulk.shard import Shard

from nonsense_servers import http_answer, http_server

ENDED = "ofa-caption: no host of an image answers; images that do not count as done: "


@pytest.fixture
def caption(scripted, tmp_path):
    """Caption these inputs into a file, in this process, and give the failures' codes."""

    def run(*names, many=64):
        failed = {}
        retry = Retry(attempts=1000, patience=0.3)
        files = OutputFiles.named(tmp_path / "c.jsonl", None, None, Shard())
        with Captioner(scripted.grpc, retry=retry) as captioner, Files(files) as output:
            output.fail = lambda key, code, _: failed.update({key: code})
            caption_items(captioner, Inputs(names), output, outage=many)
        return failed

    return run


def no_name(number):
    def look_up(*_):
        raise socket.gaierror(number, "the name service's text")

    return look_up


def listed(tmp_path, urls):
    (tmp_path / "list.txt").write_text("\n".join(urls))
    return "list.txt", "--output", "captions.jsonl"


def recorded(tmp_path):
    return (tmp_path / "captions.jsonl.errors.jsonl").read_text()


def test_a_short_list_whose_host_is_away_ends_the_run_and_no_image_fails(ofa_caption, tmp_path, closed_port):
    urls = [f"http://127.0.0.1:{closed_port}/{i}.jpg" for i in range(4)]
    arguments = [*listed(tmp_path, urls), "--patience", "0.5"]
    result = ofa_caption(*arguments)
    assert (result.returncode, recorded(tmp_path)) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"{ENDED}4; with --patience 0 each failure is its image's own (the last: http://127.0.0.1:")
    assert "FETCH_FAILED" in last
    with http_server(http_answer("200 OK", "an image"), port=closed_port):
        assert ofa_caption(*arguments).returncode == 0
    assert ofa_caption(*arguments).returncode == 0


def test_without_patience_each_is_its_own(ofa_caption, tmp_path, closed_port):
    urls = [f"http://127.0.0.1:{closed_port}/{i}.jpg" for i in range(4)]
    result = ofa_caption(*listed(tmp_path, urls), "--patience", "0")
    assert (result.returncode, recorded(tmp_path).count("FETCH_FAILED")) == (1, 4)


def test_the_end_of_a_list_is_not_lost_to_a_host_that_went_away(ofa_caption, tmp_path, closed_port):
    with http_server(http_answer("200 OK", "an image")) as images:
        urls = [f"{images}/{i}.jpg" for i in range(40)]
        away = [f"http://127.0.0.1:{closed_port}/{i}.jpg" for i in range(3)]
        # One at a time: nothing is fetched while the last are tried.
        arguments = [*listed(tmp_path, urls + away), "--concurrency", "1", "--patience", "0.5"]
        result = ofa_caption(*arguments)
    assert (result.returncode, recorded(tmp_path)) == (2, "")
    assert f"{ENDED}3; " in result.stderr
    with http_server(http_answer("200 OK", "an image"), port=closed_port):
        assert ofa_caption(*arguments).returncode == 0


def test_a_host_that_hangs_up_or_is_silent_is_away(ofa_caption, tmp_path):
    for answer, settings in ((b"", []), (None, ["--timeout", "1"])):
        with http_server(answer) as images:
            result = ofa_caption(*listed(tmp_path, [f"{images}/cat.jpg"]), "--patience", "0.5", *settings)
        assert (result.returncode, recorded(tmp_path)) == (2, "")
        assert f"{ENDED}1; " in result.stderr


@pytest.mark.parametrize("answer", [http_answer("503 Service Unavailable", "full"), http_answer("404 Not Found", "no")])
def test_a_host_that_answers_without_an_image_has_its_images_fail(ofa_caption, tmp_path, answer):
    with http_server(answer) as images:
        urls = [f"{images}/{i}.jpg" for i in range(4)]
        result = ofa_caption(*listed(tmp_path, urls), "--patience", "0.5")
    assert (result.returncode, recorded(tmp_path).count("FETCH_FAILED")) == (1, 4)


def test_a_file_that_breaks_off_is_an_answer(ofa_caption, tmp_path):
    with http_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nan ima") as images:
        result = ofa_caption(*listed(tmp_path, [f"{images}/cat.jpg"]), "--patience", "0.5")
    assert (result.returncode, recorded(tmp_path).count("FETCH_FAILED")) == (1, 1)


def test_where_one_host_answers_another_that_does_not_has_its_image_fail(ofa_caption, tmp_path, closed_port):
    with http_server(http_answer("503 Service Unavailable", "full")) as images:
        urls = [f"http://127.0.0.1:{closed_port}/cat.jpg", f"{images}/dog.jpg"]
        result = ofa_caption(*listed(tmp_path, urls), "--patience", "0.5")
    assert (result.returncode, recorded(tmp_path).count("FETCH_FAILED")) == (1, 2)


def test_a_name_that_is_no_hosts_is_the_images_own_failure(caption, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_NONAME))
    url = "http://nothing.invalid/cat.jpg"
    assert caption(url) == {url: "FETCH_FAILED"}


def test_so_many_of_them_in_a_row_are_an_outage_all_the_same(caption, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_NONAME))
    with pytest.raises(OutageError, match="4 images in a row failed"):
        caption(*[f"http://nothing.invalid/{i}.jpg" for i in range(4)], many=4)


def test_a_name_service_that_is_away_is_an_outage(caption, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_AGAIN))
    with pytest.raises(OutageError, match="no host of an image answers"):
        caption("http://somewhere.invalid/cat.jpg")


def test_a_server_that_fails_the_last_images_has_them_fail():
    failed = []
    suspects = Suspects(lambda key, *_: failed.append(key), 64)
    for index, error in enumerate([errors.InternalError("see 4711"), errors.SilentServerError("http://host: nothing")]):
        suspects.add(index, f"{index}.jpg", error)
    suspects.settle()
    assert failed == ["0.jpg", "1.jpg"]


def test_what_a_later_image_shows_is_heeded_at_the_end():
    failed = []
    suspects = Suspects(lambda key, *_: failed.append(key), 64)
    away = errors.ImageHostError("http://host/0.jpg cannot be fetched (Connection refused)")
    away.__cause__ = ConnectionRefusedError()
    suspects.add(0, "0.jpg", away)
    suspects.settle(1)
    assert failed == ["0.jpg"]
    suspects.settle()
    suspects.add(2, "2.jpg", away)
    with pytest.raises(OutageError, match=r"count as done: 1; .*the last: 2\.jpg: FETCH_FAILED"):
        suspects.settle()
    assert failed == ["0.jpg"]
