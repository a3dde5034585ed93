"""A folder that is built takes the old one's place whole, and the old one is never lost on the way."""

import errno
import shutil

import pytest
from ofa_build.replacing import replacing


def fill(folder, text):
    with replacing(folder) as partial:
        (partial / "file").write_text(text)


@pytest.fixture
def final(tmp_path):
    """A folder that was built before."""
    fill(tmp_path / "coco", "old")
    return tmp_path / "coco"


def assert_only(final, text):
    assert (final / "file").read_text() == text
    assert [path.name for path in final.parent.iterdir()] == [final.name]


def test_a_new_folder(tmp_path):
    fill(tmp_path / "coco", "new")
    assert_only(tmp_path / "coco", "new")
    assert (tmp_path / "coco").stat().st_mode & 0o777 == 0o755


def test_a_new_one_for_an_old_one(final):
    fill(final, "new")
    assert_only(final, "new")


def test_a_link_to_another_disk_stays_one(tmp_path, final):
    link = tmp_path / "artifacts" / "coco"
    link.parent.mkdir()
    link.symlink_to(final)
    fill(link, "new")
    assert link.is_symlink()
    assert (final / "file").read_text() == "new"
    assert [path.name for path in link.parent.iterdir()] == ["coco"]


@pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt])
def test_what_ends_the_filling_leaves_the_old_one(final, end):
    with pytest.raises(end), replacing(final) as partial:
        (partial / "file").write_text("half")
        raise end
    assert_only(final, "old")


def test_a_new_one_that_cannot_be_moved_leaves_the_old_one(final):
    with pytest.raises(FileNotFoundError), replacing(final) as partial:
        shutil.rmtree(partial)
    assert_only(final, "old")


def test_an_old_one_that_cannot_be_removed_is_named(final, monkeypatch, caplog):
    """As where another user owns a part of it."""

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    fill(final, "new")
    assert (final / "file").read_text() == "new"
    (left,) = final.parent.glob(".coco.replaced-*")
    assert (left / "file").read_text() == "old"
    assert str(left) in caplog.text


def test_of_two_at_a_time_the_last_counts_and_neither_harms_the_other(final):
    with replacing(final) as slow:
        (slow / "file").write_text("slow")
        fill(final, "quick")
        assert (final / "file").read_text() == "quick"
    assert_only(final, "slow")


def test_what_a_killed_process_left_is_swept(final):
    (final.parent / ".coco.building-killed").mkdir()
    (final.parent / ".coco.building-killed" / "file").write_text("half")
    fill(final, "new")
    assert_only(final, "new")


def test_one_killed_between_the_two_steps_loses_nothing(final):
    final.rename(final.parent / ".coco.replaced-killed")
    with pytest.raises(RuntimeError), replacing(final):
        raise RuntimeError
    assert_only(final, "old")


def test_other_names_folders_are_left_alone(final):
    others = [".coco_2.building-other", ".coco.backup"]
    for other in others:
        (final.parent / other).mkdir()
    fill(final, "new")
    assert sorted(path.name for path in final.parent.iterdir()) == sorted([*others, "coco"])


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "coco").write_text("a file")
    with pytest.raises(NotADirectoryError, match="coco is no folder"), replacing(tmp_path / "coco"):
        pytest.fail("it was to be refused before the work")
    assert (tmp_path / "coco").read_text() == "a file"
