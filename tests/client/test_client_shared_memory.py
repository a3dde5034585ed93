"""Images through shared memory: the same captions, and nothing left behind, however a client ends."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys

import pytest
import tritonclient.grpc
from ofa_client import (
    AccessRefusedError,
    Captioner,
    DeadlineExceededError,
    EmptyImageError,
    ImageTooLargeError,
    ServiceUnavailableError,
    contract,
    shared_memory,
)

KEY = "a-key-of-some-length"
ONE_CAPTION = """
import sys
from ofa_client import Captioner
captioner = Captioner(sys.argv[1], shared_memory_key=sys.argv[2])
print(captioner.caption(b"an image").text, flush=True)
"""


def expected_text(image):
    return f"image {hashlib.sha256(image).hexdigest()[:12]}, caption 0"


def files():
    return sorted(path.name for path in shared_memory.FOLDER.glob("ofa-client-*"))


@pytest.fixture
def registered(scripted):
    """The regions that the server knows."""

    def registered():
        with tritonclient.grpc.InferenceServerClient(scripted.grpc.replace("grpc://", "")) as client:
            return sorted(client.get_system_shared_memory_status().regions)

    return registered


@pytest.fixture(autouse=True)
def nothing_is_left(registered):
    yield
    assert (files(), registered()) == ([], [])


@pytest.fixture
def sharing(url):
    with Captioner(url, shared_memory_key=KEY) as captioner:
        yield captioner


def test_the_server_gets_the_images_bytes_out_of_shared_memory(sharing, registered):
    every_byte = bytes(range(256)) * 5000
    assert sharing.caption(every_byte).text == expected_text(every_byte)
    assert len(registered()) == 1
    assert files() == registered()


def test_a_region_serves_one_image_after_another(sharing, registered):
    images = [b"an image", bytes(300_000), b"", b"another"]
    assert [sharing.caption(image).text for image in images] == [expected_text(image) for image in images]
    assert len(registered()) == 1


def test_each_request_in_flight_has_a_region(sharing, registered):
    images = [f"image {i} ".encode() * (1 + 997 * i) for i in range(64)]
    texts = [outcome.caption.text for outcome in sharing.caption_many(images, concurrency=8)]
    assert texts == [expected_text(image) for image in images]
    assert 1 < len(registered()) <= 8


def test_a_larger_image_gets_a_larger_region_instead(sharing, registered):
    for size in (10, 3 * 2**20, 5 * 2**20):
        assert sharing.caption(bytes(size)).text == expected_text(bytes(size))
    assert len(registered()) == 1


def test_an_image_that_is_refused_for_its_size_takes_no_memory(sharing, registered):
    with pytest.raises(ImageTooLargeError, match="larger than 20 MiB"):
        sharing.caption(bytes(contract.MAX_IMAGE_BYTES + 1))
    assert registered() == []


def test_refusals_are_the_same(sharing, script):
    with pytest.raises(EmptyImageError):
        sharing.caption(script(error="EMPTY_IMAGE: no bytes"))
    with pytest.raises(ImageTooLargeError):
        sharing.caption(script(error="IMAGE_TOO_LARGE: too many pixels"))


def test_asyncio_shares_memory_as_well(run_async, registered):
    async def use(captioner):
        caption = await captioner.caption(b"an image")
        return caption.text, len(registered())

    assert run_async(use, shared_memory_key=KEY) == (expected_text(b"an image"), 1)


def test_a_request_that_was_given_up_leaves_nothing(sharing, script):
    with pytest.raises(DeadlineExceededError):
        sharing.caption(script(delay_s=1), timeout=0.2)
    assert sharing.caption(b"an image").text == expected_text(b"an image")


def test_a_server_that_was_started_again_is_told_of_the_region_again(sharing, scripted, registered):
    sharing.caption(b"an image")
    with tritonclient.grpc.InferenceServerClient(scripted.grpc.replace("grpc://", "")) as client:
        client.unregister_system_shared_memory()  # of all: what a restart does to them
    assert sharing.caption(b"another").text == expected_text(b"another")
    assert len(registered()) == 1


def test_a_captioner_that_nobody_closes_is_closed_when_the_program_ends(url):
    command = [sys.executable, "-c", ONE_CAPTION, url, KEY]
    printed = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=True).stdout
    assert printed.strip() == expected_text(b"an image")


def test_what_a_killed_client_left_is_removed_by_the_next(url, sharing, registered):
    program = f"{ONE_CAPTION}import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, url, KEY], stdout=subprocess.PIPE) as client:
        assert client.stdout.readline()
        client.send_signal(signal.SIGKILL)
    left = files()
    assert left == registered()
    assert len(left) == 1
    sharing.caption(b"an image")
    assert left[0] not in [*files(), *registered()]


def test_living_clients_regions_are_let_alone(url, sharing, registered):
    sharing.caption(b"an image")
    with Captioner(url, shared_memory_key=KEY) as other:
        other.caption(b"an image")
        assert len(registered()) == 2
        assert sharing.caption(b"another").text == expected_text(b"another")


def test_a_server_that_sees_other_shared_memory_is_told_from_one_that_is_away(url, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)  # as if in another container
    with Captioner(url, shared_memory_key=KEY) as captioner, pytest.raises(AccessRefusedError, match="this host"):
        captioner.caption(b"an image")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_unavailable(closed_port):
    with Captioner(f"grpc://127.0.0.1:{closed_port}", shared_memory_key=KEY, retry=None) as captioner:
        with pytest.raises(ServiceUnavailableError):
            captioner.caption(b"an image")
        with pytest.raises(ServiceUnavailableError):
            captioner.caption(b"an image")
        assert len(files()) == 1


def test_shared_memory_that_is_full_is_the_systems_error(sharing):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(OSError, match="2097152 bytes of shared memory cannot be had"):
            sharing.caption(bytes(2**20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sharing.caption(b"an image").text == expected_text(b"an image")


def test_a_forked_process_does_not_remove_its_parents_regions(scripted):
    fork = """
import os, weakref
if os.fork() == 0:
    weakref.finalize._exitfunc()  # what runs when a Python program ends
    os._exit(0)
os.wait()
print(captioner.caption(b"another").text)
"""
    program = [sys.executable, "-c", ONE_CAPTION + fork, scripted.http, KEY]  # gRPC itself does not survive a fork
    printed = subprocess.run(program, capture_output=True, encoding="utf-8", timeout=300, check=True).stdout
    assert printed.splitlines() == [expected_text(b"an image"), expected_text(b"another")]


@pytest.mark.parametrize("key", ["", "short", "sixteen letters with spaces", "sixteen-and-more:"])
def test_a_key_that_no_server_has_is_refused(url, key):
    with pytest.raises(ValueError, match="shared_memory_key"):
        Captioner(url, shared_memory_key=key)
