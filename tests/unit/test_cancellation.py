"""The flags by which the public model tells the beam search that a client has gone."""

import subprocess
import sys

from ofa_serving.cancellation import CANCEL_VARIABLE, SLOTS, CancelFlags


def test_another_process_sees_what_is_set(tmp_path):
    environ = {CANCEL_VARIABLE: str(tmp_path / "cancel")}
    flags = CancelFlags.open("search", environ)
    flags.set(7, True)
    flags.set(SLOTS - 1, True)
    code = (
        "from ofa_serving.cancellation import SLOTS, CancelFlags\n"
        f"flags = CancelFlags.open('search', {environ!r})\n"
        "print([slot for slot in range(SLOTS) if flags[slot]])\n"
        "flags.set(7, False)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == f"[7, {SLOTS - 1}]"
    assert not flags[7]


def test_each_search_has_its_own(tmp_path):
    environ = {CANCEL_VARIABLE: str(tmp_path / "cancel")}
    one, other = CancelFlags.open("one", environ), CancelFlags.open("other", environ)
    one.set(0, True)
    assert not other[0]


def test_without_a_launcher_nothing_is_shared_or_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = CancelFlags.open("search", {}), CancelFlags.open("search", {})
    one.set(0, True)
    assert not other[0]
    assert list(tmp_path.iterdir()) == []
