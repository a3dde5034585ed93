"""``make client-soak``: a folder of 20,000 images through kills of the client and of the server, on a real server;
and 100,000 results with flat memory.

``OFA_SOAK_IMAGES`` and ``OFA_SOAK_RESULTS`` set other numbers.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from ofa_client import Captioner
from PIL import Image
from serving_process import ServerProcess

IMAGES = int(os.environ.get("OFA_SOAK_IMAGES", "20000"))
RESULTS = int(os.environ.get("OFA_SOAK_RESULTS", "100000"))
CASE = CASES[0]
COMMAND = [sys.executable, "-m", "ofa_client", "photos", "--output", "captions.jsonl"]
BRIEF = [
    "--beam-size",
    "1",
    "--max-length",
    "4",
    "--no-repeat-ngram-size",
    "0",
]  # short captions: it is the client's test


def picture(i):
    """A small picture of its own."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def broken(i):
    """Bytes that no captioner takes, and the code for them."""
    whole = picture(i)
    narrow = io.BytesIO()
    Image.new("L", (1, 65_000)).save(narrow, "PNG")
    return [
        (b"", "EMPTY_IMAGE"),
        (b"no image at all", "UNSUPPORTED_FORMAT"),
        (whole[: len(whole) // 2], "TRUNCATED_IMAGE"),
        (narrow.getvalue(), "IMAGE_TOO_LARGE"),
        (None, "UNREADABLE"),
    ][i % 5]


@pytest.fixture
def photos(tmp_path):
    """Write the images, 1 % of them broken; returns the names of the good, and the codes of the bad by name."""
    bad = set(random.Random(0).sample(range(IMAGES), IMAGES // 100))
    good, codes = [], {}
    for i in range(IMAGES):
        path = tmp_path / f"photos/{i // 1000:03d}/{i:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        name = str(path.relative_to(tmp_path))
        data, code = broken(i) if i in bad else (picture(i), None)
        if data is None:
            path.symlink_to("nowhere")
        else:
            path.write_bytes(data)
        if code:
            codes[name] = code
        else:
            good.append(name)
    return good, codes


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_good_image_once_and_every_bad_one_with_its_code(artifacts, photos, tmp_path):
    """Three kills of the client, and one of the server while the client goes on."""
    artifacts(CASE)
    good, codes = photos
    output = tmp_path / "captions.jsonl"
    (tmp_path / "server").mkdir()
    with ServerProcess(artifacts.folder, [CASE.model_name], tmp_path / "server") as server:
        environment = {**os.environ, "OFA_URL": f"grpc://{server.grpc_url}", "OFA_MODEL": CASE.model_name}

        def started():
            log = (tmp_path / "client.log").open("ab")
            return subprocess.Popen([*COMMAND, *BRIEF], cwd=tmp_path, env=environment, stderr=log)

        def wait_for(process, share):
            while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < share * IMAGES):
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            assert process.poll() is None, (tmp_path / "client.log").read_text()[-2000:]

        for share in (0.1, 0.35, 0.7):
            client = started()
            if share == 0.7:
                wait_for(client, 0.5)
                os.kill(server.server_pid, signal.SIGKILL)  # the launcher starts it again
            wait_for(client, share)
            client.kill()
            client.wait()
        client = started()
        assert client.wait() == 1, (tmp_path / "client.log").read_text()[-2000:]
    captioned = Counter(record["image"] for record in records(output))
    failures = records(tmp_path / "captions.jsonl.errors.jsonl")
    assert captioned == Counter(good)
    assert Counter(record["image"] for record in failures) == Counter(codes.keys())
    assert {record["image"]: record["code"] for record in failures} == codes


SERVE = """
import sys
from nonsense_servers import grpc_server, one_caption
with grpc_server(one_caption) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def resident_kib():
    """What this process holds in memory now."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_memory_stays_flat_over_many_results():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVE], env=environment, **pipes) as server:
        held = []
        with Captioner(server.stdout.readline().strip()) as captioner:
            images = (b"x" * 10_000 for _ in range(RESULTS))
            for outcome in captioner.caption_many(images, in_order=False):
                assert outcome.error is None
                if outcome.index % (RESULTS // 10) == RESULTS // 20:
                    held.append(resident_kib())
        server.stdin.close()
    sys.stdout.write(f"resident MiB, every {RESULTS // 10} results: {[kib >> 10 for kib in held]}\n")
    assert max(held) - held[0] < 10 << 10
