"""Checkpoints named on a hub: the hubs' own libraries fetch them, from a server here that speaks their protocols."""

import json
import logging
import os
import subprocess
import sys

import hub_server as hub_server_module
import pytest
from hub_server import hub_server
from ofa_build.checkpoint import CheckpointError, load_checkpoint, reader
from ofa_build.checkpoint.hub import is_hub_name
from small_checkpoints import copy_checkpoint

PROGRAM = """
import json, sys
from ofa_build.checkpoint import CheckpointError, load_checkpoint
for name in sys.argv[1:]:
    try:
        checkpoint = load_checkpoint(name)
        print(json.dumps({"format": checkpoint.source_format, "sha256": checkpoint.sha256}))
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}))
"""


def load_from(endpoint: str, cache, *names: str) -> list[dict]:
    """Load by name in a process of its own: both libraries read their settings once, when they are imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "hugging-face"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_ENDPOINT": endpoint,
        "MODELSCOPE_CACHE": str(cache / "modelscope"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "hub"),
    [("damo/ofa_image-caption_coco_distilled_en", "modelscope"), ("OFA-Sys/ofa-tiny", "huggingface")],
)
def test_a_name_is_fetched_by_its_hubs_library(tmp_path, name, hub):
    directory = copy_checkpoint(tmp_path / "published")
    (directory / "README.md").write_text("not fetched")
    with hub_server(name, directory) as (endpoint, requested):
        fetched, prefixed, missing = load_from(
            endpoint, tmp_path / "cache", name, f"{hub}:{name}", f"{hub}:nobody/nothing"
        )
    assert fetched == prefixed == {"format": "modelscope", "sha256": load_checkpoint(directory).sha256}
    assert missing["error"] == (
        f"there is no directory {hub}:nobody/nothing, and it could not be fetched from {hub}: "
        "the hub has no such model that everyone may read"
    )
    assert not any("README" in path for path in requested)
    assert any("/resolve/" in path for path in requested) == (hub == "huggingface")


def test_without_a_network_the_refusal_says_so(tmp_path):
    names = {"damo/ofa_image-caption_coco_large_en": "modelscope", "OFA-Sys/ofa-base": "huggingface"}
    with hub_server("nobody/nothing", tmp_path) as (endpoint, _):
        pass  # the port is free again, and nothing answers there
    for (name, hub), outcome in zip(names.items(), load_from(endpoint, tmp_path / "cache", *names), strict=True):
        why = f"there is no directory {name}, and it could not be fetched from {hub}: the hub does not answer"
        assert outcome["error"] == why


def test_a_hub_cannot_have_files_written_outside_its_folder(tmp_path, monkeypatch):
    directory = copy_checkpoint(tmp_path / "published")
    for folder in (tmp_path, directory):
        (folder / "other.json").write_text("{}")
    listed = hub_server_module._listed
    outside = {"Path": "../other.json"}
    monkeypatch.setattr(
        hub_server_module, "_listed", lambda path: listed(path) | (outside if path.name == "other.json" else {})
    )
    with hub_server("damo/ofa", directory) as (endpoint, _):
        (fetched,) = load_from(endpoint, tmp_path / "cache", "damo/ofa")
    assert fetched["format"] == "modelscope"
    assert not list((tmp_path / "cache").rglob("other.json"))


def test_shards_are_fetched(tmp_path):
    directory = copy_checkpoint(tmp_path / "published", "en-deep")
    with hub_server("damo/ofa", directory) as (endpoint, _):
        (fetched,) = load_from(endpoint, tmp_path / "cache", "damo/ofa")
    assert fetched == {"format": "modelscope", "sha256": load_checkpoint(directory).sha256}


def test_it_is_said_where_what_was_fetched_lies(tmp_path, monkeypatch, caplog):
    directory = copy_checkpoint(tmp_path / "cache")
    monkeypatch.setattr(reader, "fetch", lambda _name: directory)
    with caplog.at_level(logging.INFO):
        load_checkpoint("damo/ofa")
    assert caplog.messages == [f"damo/ofa lies in {directory}"]


@pytest.mark.parametrize("name", ["damo/ofa", "OFA-Sys/ofa-tiny", "modelscope:iic/ofa_x", "huggingface:a/b.c"])
def test_hub_names(name):
    assert is_hub_name(name)


PATHS = ["./ofa", "../ofa", "damo/..", "damo/.cache", "models/best.pt", "models/x.bin", "models/x.safetensors"]


@pytest.mark.parametrize("name", ["ofa", "/damo/ofa", "a/b/c", "../ofa/x", "damo/", "ftp:a/b", "a b/c", *PATHS])
def test_what_is_no_hub_name_and_no_path_is_refused(name):
    with pytest.raises(CheckpointError, match=f"^there is no checkpoint {name}: "):
        load_checkpoint(name)
