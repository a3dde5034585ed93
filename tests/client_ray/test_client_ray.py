"""``make test-ray``: a data set captioned on a local Ray by several clients over two servers.

The servers are real Tritons with the scripted model, run by the server's own Python (``OFA_SERVER_PYTHON``).
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import ray
from ofa_client import ServiceUnavailableError
from ofa_client.ray import caption_dataset
from pyarrow import parquet, table

REPOSITORY = Path(__file__).parents[2]


def script(**keys):
    return b"scripted:" + json.dumps(keys).encode()


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def replicas():
    """The addresses of two servers."""
    python = os.environ.get("OFA_SERVER_PYTHON", str(REPOSITORY / ".venv/bin/python"))
    command = [python, str(REPOSITORY / "tests/client/scripted_triton.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        servers = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
        yield [server.stdout.readline().split()[0] for server in servers]
        for server in servers:
            server.stdin.close()


def rows(dataset):
    return sorted(dataset.take_all(), key=lambda row: row["id"])


def test_a_parquet_file_goes_in_and_captions_come_out(replicas, tmp_path):
    images = [script(captions=[f"photo {i}"]) for i in range(200)]
    images[17] = script(error="TRUNCATED_IMAGE: it ends early")
    parquet.write_table(table({"id": list(range(200)), "image": images}), tmp_path / "in.parquet", row_group_size=50)
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    caption_dataset(dataset, replicas, clients=2, batch_size=20).write_parquet(str(tmp_path / "out"))
    written = sorted(parquet.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in written] == list(range(200))
    assert [row["caption"] for row in written if row["id"] != 17] == [f"photo {i}" for i in range(200) if i != 17]
    assert (written[17]["caption"], written[17]["caption_score"]) == (None, None)
    assert written[17]["caption_error"] == "TRUNCATED_IMAGE: it ends early. Fetch or export the file again."
    assert written[0]["caption_error"] is None


def test_a_webdataset_goes_in_as_well(replicas, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for i in range(30):
            for suffix, data in (("jpg", script(captions=[f"photo {i}"])), ("json", b'{"id": %d}' % i)):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    dataset = ray.data.read_webdataset(str(tmp_path / "shard.tar"), decoder=None)
    captioned = caption_dataset(dataset, replicas, image_column="jpg").take_all()
    assert {row["__key__"]: row["caption"] for row in captioned} == {f"{i:04d}": f"photo {i}" for i in range(30)}


def test_the_guides_program(replicas, tmp_path):
    parquet.write_table(table({"id": [17], "image": [script(captions=["a photo"])]}), tmp_path / "table.parquet")
    guide = (REPOSITORY / "docs/client.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n# needs ray\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    here = {"grpc://127.0.0.1:8001": replicas[0]}
    here.update({f'"{name}"': f'"{tmp_path / name}"' for name in ("table.parquet", "captioned")})  # Ray's own folder
    for shown, used in here.items():
        program = program.replace(shown, used)
    exec(compile(program, "client.md", "exec"), {})
    assert parquet.read_table(tmp_path / "captioned")["caption"].to_pylist() == ["a photo"]


def test_both_servers_and_all_clients_work(replicas):
    """Requests that each server had in flight at once are of its own: neither had all of them."""
    images = [script(echo=True, delay_s=0.2, group="ray") for _ in range(64)]
    dataset = ray.data.from_items([{"id": i, "image": image} for i, image in enumerate(images)], override_num_blocks=4)
    captioned = rows(caption_dataset(dataset, replicas, clients=2, concurrency=8, batch_size=16))
    most = max(json.loads(row["caption"])["in_flight"] for row in captioned)
    assert 2 <= most <= 8  # of 16 in flight in all


def test_arrays_paths_and_what_cannot_be_read(replicas, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(script(captions=["a photo"]))
    paths = [str(tmp_path / "photo.jpg"), str(tmp_path / "missing.jpg")]
    dataset = ray.data.from_items([{"id": i, "image": path} for i, path in enumerate(paths)])
    there, missing = rows(caption_dataset(dataset, replicas))
    assert there["caption"] == "a photo"
    assert missing["caption_error"] == "UNREADABLE: No such file or directory"
    arrays = ray.data.from_items([{"id": 0, "image": np.zeros((8, 9, 3), np.uint8)}])
    [row] = rows(caption_dataset(arrays, replicas))
    assert row["caption"].startswith("image ")


def test_options_and_settings_reach_the_server(replicas):
    dataset = ray.data.from_items([{"id": 0, "image": script(echo=True)}])
    [row] = rows(caption_dataset(dataset, replicas, options={"beam_size": 3}, model="ofa_caption"))
    parameters = json.loads(row["caption"])["parameters"]
    assert (parameters["beam_size"], parameters["priority_class"]) == ("3", "batch")


def test_servers_that_are_away_end_the_job():
    dataset = ray.data.from_items([{"id": 0, "image": b"x"}])
    with pytest.raises(Exception, match="UNAVAILABLE") as caught:
        caption_dataset(dataset, "grpc://127.0.0.1:9", retry=None).take_all()
    assert ServiceUnavailableError.__name__ in str(caught.value)
