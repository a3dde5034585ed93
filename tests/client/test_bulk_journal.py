"""The journal: what a kill leaves behind is cleared away, nothing that was written is lost, one process writes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from ofa_client.bulk.journal import Journal, JournalError, read_records
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.output import Files, OutputFiles
from ofa_client.bulk.shard import Shard

NAMES = ["a.jpg", "图.jpg", "caf\udce9.jpg", 'quote".jpg', "line\nbreak.jpg"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "captions.jsonl"


def opened(path):
    done = set()
    return Journal(path, done), done


def write(path, names):
    journal, _ = opened(path)
    for name in names:
        journal.append({"image": name, "captions": [{"text": f"of {name}", "score": -0.5}]})
    journal.close()


def test_records_are_read_back(path):
    write(path, NAMES)
    assert [record["image"] for record in read_records(path)] == NAMES
    assert path.read_bytes().count(b"\n") == len(NAMES)


def test_records_are_known_when_it_is_opened_again(path):
    write(path, NAMES)
    journal, done = opened(path)
    assert all(name in done for name in NAMES)
    assert (journal.records, len(done)) == (len(NAMES), len(NAMES))
    journal.close()


def test_a_cut_at_any_byte_loses_the_last_record_at_most(path):
    write(path, ["a.jpg", "b.jpg"])
    whole = path.read_bytes()
    first = len(whole.splitlines(keepends=True)[0])
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        journal, done = opened(path)
        journal.close()
        assert len(done) == (cut >= first) + (cut == len(whole))
        write(path, [name for name in ["a.jpg", "b.jpg"] if name not in done])
        assert [record["image"] for record in read_records(path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\0" * 10 + b"\n" + b"\0" * 10, b'{"ima'])
def test_what_a_power_failure_leaves_at_the_end_is_cleared_away(path, tail):
    write(path, ["a.jpg"])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    opened(path)[0].close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", ["my notes\n", "[1, 2]\n", '{"name": "x"}\n', "precious"])
def test_another_file_is_refused_and_left_as_it_was(path, content):
    path.write_text(content)
    with pytest.raises(JournalError, match="something else"):
        opened(path)
    assert path.read_text() == content


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_what_is_no_file_is_refused(device):
    with pytest.raises(JournalError, match=f"{device} is no regular file"):
        opened(Path(device))


def test_damage_between_records_is_refused_with_its_line(path):
    write(path, ["a.jpg", "b.jpg", "c.jpg"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "what?\n" + lines[2])
    with pytest.raises(JournalError, match=r"line 2 of .* is no record"):
        opened(path)
    assert "what?" in path.read_text()


def test_two_processes_cannot_write_to_one_file(path):
    journal, _ = opened(path)
    with pytest.raises(JournalError, match="another process"):
        opened(path)
    journal.close()
    opened(path)[0].close()


def test_a_full_disk_is_said_and_costs_no_record(path):
    write(path, ["a.jpg"])
    whole = path.read_bytes()
    journal, _ = opened(path)
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written on: File too large"):
            journal.append({"image": "b.jpg", "captions": []})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    journal.close()
    assert path.read_bytes() != whole
    opened(path)[0].close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("room", [0, 5])
def test_why_a_disk_takes_no_more_is_said(path, monkeypatch, room):
    """It takes what it has room for, and tells why only when asked to take more."""
    journal, _ = opened(path)
    take = os.write

    def full(file, data):
        written = path.stat().st_size
        if written == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return take(file, data[: room - written])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="cannot be written on: No space left on device") as raised:
        journal.append({"image": "a.jpg", "captions": []})
    monkeypatch.undo()
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b'{"image": "a.jpg"'[:room]
    journal.close()


def test_keys_are_few_bytes_each_however_many():
    keys = KeySet()
    assert all(keys.add(f"image {i}") for i in range(200_000))
    assert not any(keys.add(f"image {i}") for i in range(0, 200_000, 997))
    assert keys._high.nbytes + keys._low.nbytes <= 16 * 200_000


def test_records_are_json_for_any_reader(path):
    write(path, NAMES)
    for line in path.read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["image"] in NAMES


def test_a_disk_that_cannot_sync_leaves_no_file_open(path, monkeypatch):
    def fail(_file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = Files(OutputFiles.named(path, None, None, Shard()))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.close()
    monkeypatch.undo()
    Files(OutputFiles.named(path, None, None, Shard())).close()  # each is locked while it is open
