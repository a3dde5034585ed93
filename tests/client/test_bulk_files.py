"""What ``ofa-caption --output`` leaves alone: files that it did not write, its inputs, captions of other settings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ofa_client.bulk.journal import Journal, JournalError
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.notes import Notes
from ofa_client.bulk.output import Files, OutputFiles
from ofa_client.bulk.shard import Shard
from ofa_client.results import Caption

FORMATS = ["csv", "json", "parquet"]
SETTINGS = {"model": "ofa_caption", "num_captions": 1, "beam_size": None, "length_penalty": 1.5}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(script):
    Path("photos").mkdir()
    for i in range(3):
        Path(f"photos/{i}.jpg").write_bytes(script(captions=[f"photo {i}"]))


@pytest.fixture
def offline(ofa_caption, closed_port):
    """Run the command where there is no server: whatever it sent would end with another line."""

    def run(*arguments):
        return ofa_caption(*arguments, "--url", f"grpc://127.0.0.1:{closed_port}", "--patience", "0")

    return run


def needs(output):
    if output.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet is an extra")


def named(output, errors=None, file_format=None):
    return OutputFiles.named(Path(output), file_format, errors and Path(errors), Shard())


def caption(output, *names, settings=SETTINGS, **options):
    """Do what a run does."""
    files = named(output)
    files.check(["photos"])
    with Files(files, settings=settings, **options) as made:
        for name in names:
            if made.wants(name):
                made.write(name, [Caption(f"of {name}", -0.5)])
        made.finish()


def refused(result, words):
    [line] = result.stderr.splitlines()
    return result.returncode == 2 and line.startswith("ofa-caption: ") and words in line


def contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


# A file that somebody else wrote


@pytest.mark.parametrize("output", ["mine.csv", "annotations.json", "mine.parquet", "notes.jsonl"])
def test_a_file_of_somebody_else_is_refused_before_anything_is_sent(offline, photos, output):
    Path(output).write_text('[{"image_id": 1, "caption": "precious"}]')
    before = contents()
    assert refused(offline("photos", "--output", output), f"{output} holds something else than")
    assert contents() == before


def test_a_dry_run_says_so_too(offline, photos):
    Path("mine.csv").write_text("precious")
    assert refused(offline("photos", "--output", "mine.csv", "--dry-run"), "mine.csv holds something else than")


def test_the_table_of_images_is_no_place_for_the_captions(offline, script):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    import pyarrow

    parquet.write_table(pyarrow.table({"id": ["a"], "image": [script(captions=["a cat"])]}), "t2.parquet")
    before = Path("t2.parquet").read_bytes()
    Path("link.parquet").symlink_to("t2.parquet")
    for output in ("t2.parquet", "./t2.parquet", "link.parquet"):
        result = offline("t2.parquet", "--key-column", "id", "--output", output)
        assert refused(result, f"{Path(output)} is an input as well")
    assert Path("t2.parquet").read_bytes() == before


def test_an_image_is_no_place_for_the_captions(offline, photos):
    before = contents()
    for inputs in (["photos/0.jpg"], ["photos"], ["photos/*.jpg"]):
        assert refused(offline(*inputs, "--output", "photos/0.jpg", "--format", "csv"), "photos/0.jpg ")
    assert contents() == before


@pytest.mark.parametrize("inputs", [["empty.jpg"], ["other", "*.jpg"], ["link"], ["hard"]])
def test_an_input_under_any_name_is_no_output(inputs):
    Path("empty.jpg").touch()  # a journal may be empty
    Path("link").symlink_to("empty.jpg")
    os.link("empty.jpg", "hard")
    for files in (named("empty.jpg", file_format="jsonl"), named("captions.jsonl", "empty.jpg")):
        with pytest.raises(JournalError, match=r"empty\.jpg is an input as well"):
            files.check(inputs)


def test_what_lies_elsewhere_is_no_input():
    Path("photos").mkdir()
    for output in ("photos/c.jsonl", "photos/c.csv", "photos2.parquet", "c.parquet"):
        named(output).check(["photos", "-", "http://host/c.jsonl", "missing*.jpg", "missing.jpg"])


def test_a_table_in_a_folder_of_images_would_be_read_by_a_later_run():
    Path("data/photos").mkdir(parents=True)
    Path("link").symlink_to("data")
    for folder in ("data", "link", "."):
        with pytest.raises(JournalError, match="would be taken for an input"):
            named("data/photos/c.parquet").check([folder])
    named("data/c.parquet").check(["data/photos"])


def test_a_folder_is_refused_as_an_output():
    Path("c.csv").mkdir()
    with pytest.raises(JournalError, match="something else"):
        named("c.csv").check([])


# A file that is this command's own


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_command_runs_again_after_it_has_ended(ofa_caption, photos, script, suffix):
    needs(suffix)
    arguments = ["photos", "--output", f"c.{suffix}"]
    assert ofa_caption(*arguments).returncode == 0
    before = Path(f"c.{suffix}").read_bytes()
    assert ofa_caption(*arguments).returncode == 0
    assert Path(f"c.{suffix}").read_bytes() == before
    Path("photos/3.jpg").write_bytes(script(captions=["photo 3"]))
    assert ofa_caption(*arguments).returncode == 0
    assert b"photo 3" in Path(f"c.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_ended_about_the_time_its_file_was_moved_goes_on(monkeypatch, suffix, moved, earlier):
    needs(suffix)
    output = f"c.{suffix}"
    if earlier:
        caption(output, "a.jpg")
    replace = Path.replace

    def die(self, target):
        if target != Path(output):
            return replace(self, target)
        if moved:
            replace(self, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        for name in ("b.jpg", "c.jpg"):  # twice: what is noted ahead does not push out what is there
            with pytest.raises(KeyboardInterrupt):
                caption(output, "a.jpg", name)
    assert Path(output).exists() is (earlier or moved)
    caption(output, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert b"of d.jpg" in Path(output).read_bytes()


def test_a_file_that_came_during_a_run_is_left_and_the_captions_kept():
    files = named("c.csv")
    with Files(files, settings=SETTINGS) as made:
        made.wants("a.jpg")
        made.write("a.jpg", [Caption("a cat", -0.5)])
        Path("c.csv").write_text("precious")
        with pytest.raises(JournalError, match="something else"):
            made.finish()
    assert Path("c.csv").read_text() == "precious"
    with pytest.raises(JournalError, match="something else"):
        files.check([])  # beside its half-done journal as well
    Path("c.csv").unlink()
    caption("c.csv", "a.jpg")
    assert "a cat" in Path("c.csv").read_text()


def test_a_file_that_somebody_has_worked_on_is_left():
    caption("c.csv", "a.jpg")
    text = Path("c.csv").read_text()
    Path("c.csv").write_text(text.replace("of a.jpg", "corrected"))
    with pytest.raises(JournalError, match="something else than this command wrote"):
        caption("c.csv", "a.jpg")
    assert "corrected" in Path("c.csv").read_text()


def test_a_copy_elsewhere_goes_on():
    caption("c.csv", "a.jpg")
    Path("copy").mkdir()
    for path in Path().glob("c.csv*"):
        (Path("copy") / path.name).write_bytes(path.read_bytes())
    caption("copy/c.csv", "a.jpg", "b.jpg")
    assert "of b.jpg" in Path("copy/c.csv").read_text()


def test_without_its_journal_a_file_is_made_anew():
    caption("c.csv", "a.jpg")
    Path("c.csv.journal").unlink()
    caption("c.csv", "b.jpg", settings={**SETTINGS, "num_captions": 3})
    assert "a.jpg" not in Path("c.csv").read_text()


def test_a_file_of_an_older_version_goes_on():
    caption("c.csv", "a.jpg")
    Path("c.csv.settings.json").unlink()  # older versions noted nothing
    caption("c.csv", "a.jpg", "b.jpg", settings={**SETTINGS, "num_captions": 3})
    assert "of b.jpg" in Path("c.csv").read_text()
    caption("c.csv", "c.jpg")
    assert "of c.jpg" in Path("c.csv").read_text()


def test_a_link_left_where_a_file_is_written_aside_costs_nothing():
    Path("mine").write_text("precious")
    for aside in (".c.csv.part", ".c.csv.settings.json.part"):
        Path(aside).symlink_to("mine")
    caption("c.csv", "a.jpg")
    assert Path("mine").read_text() == "precious"


# The other files


@pytest.mark.parametrize("errors", ["c.csv", "./c.csv", "link", "c.csv.journal", "c.csv.settings.json"])
def test_failures_do_not_go_where_captions_go(errors):
    Path("link").symlink_to("c.csv")
    with pytest.raises(JournalError, match="would hold failures and captions"):
        named("c.csv", errors).check([])


def test_captions_and_failures_are_not_taken_for_each_other(ofa_caption, photos):
    assert ofa_caption("photos", "missing.jpg", "--output", "a.jsonl").returncode == 1
    before = contents()
    result = ofa_caption("photos", "--output", "b.jsonl", "--errors", "a.jsonl", "--retry-failed")
    assert refused(result, "a.jsonl holds something else than records of images and their failures")
    result = ofa_caption("photos", "--output", "a.jsonl.errors.jsonl")
    assert refused(result, "a.jsonl.errors.jsonl holds something else than records of images and their captions")
    assert {path: content for path, content in contents().items() if path in before} == before


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "record",
    [{"conversations": []}, {"caption": "a cat"}, {"captions": ["a cat", "a pet"]}, {"captions": "a cat"}],
)
def test_a_data_set_of_the_users_own_is_no_journal(record, end):
    Path("train.jsonl").write_text(json.dumps({"image": "a.jpg", **record}) + end)
    before = contents()
    with pytest.raises(JournalError, match="something else than records of images"):
        Journal(Path("train.jsonl"), KeySet())
    assert contents() == before


def test_a_first_record_without_its_end_is_still_cut_off():
    Path("c.jsonl").write_text('{"image": "a.jpg", "captions": [{"text": "a cat", "score": -0.5}]}')
    Journal(Path("c.jsonl"), KeySet()).close()
    assert contents() == {Path("c.jsonl"): b""}


def test_large_files_that_begin_with_zeros_are_not_taken_for_lost_records():
    Path("disk.img").write_bytes(bytes(1 << 20) + b"precious")
    with pytest.raises(JournalError, match="something else"):
        Journal(Path("disk.img"), KeySet())


@pytest.mark.parametrize("content", ["my notes", "{}", "[]", '{"settings": 1, "made": []}', '{"settings": {}}', "\xff"])
def test_settings_that_are_something_else_are_refused_and_left(content):
    Path("c.jsonl.settings.json").write_text(content, encoding="latin-1")
    before = contents()
    with pytest.raises(JournalError, match=r"c\.jsonl\.settings\.json holds something else"):
        caption("c.jsonl", "a.jpg")
    assert contents() == before


# Other settings


@pytest.mark.parametrize("output", ["c.jsonl", "c.csv"])
def test_captions_of_other_settings_are_not_mixed(ofa_caption, offline, photos, output):
    journal = {"c.jsonl": "c.jsonl", "c.csv": "c.csv.journal"}[output]
    assert ofa_caption("photos/0.jpg", "--output", output, "--length-penalty", "1").returncode == 0
    before = contents()
    others = ["--num-captions", "3", "--beam-size", "4", "--length-penalty", "1.0", "--model", "other"]
    for more in ([], ["--retry-failed"], ["--dry-run"]):
        assert refused(
            offline("photos", "--output", output, *others, *more),
            f"ofa-caption: {journal}: --model was ofa_caption and is now other, --beam-size was not given and is now "
            f"4, --num-captions was 1 and is now 3; another --output, or removing {journal}, starts anew",
        )
    assert contents() == before
    same = ["--length-penalty", "1.0", "--concurrency", "2", "--patience", "9", "--priority-class", "interactive"]
    assert ofa_caption("photos", "--output", output, *same).returncode == 0
    Path(journal).unlink()
    assert ofa_caption("photos", "--output", output, "--num-captions", "3").returncode == 0


def test_details_are_in_all_lines_or_none(ofa_caption, offline, photos):
    assert ofa_caption("photos", "--output", "c.jsonl").returncode == 0
    assert refused(offline("photos", "--output", "c.jsonl", "--details"), "--details was off and is now on")
    assert ofa_caption("photos", "--output", "c.csv").returncode == 0
    assert ofa_caption("photos", "--output", "c.csv", "--details").returncode == 0  # which has none


def test_settings_that_captioned_nothing_bind_nobody(ofa_caption, script):
    Path("cat.jpg").write_bytes(script(error="INVALID_PARAMETER: beam_size must be 1 to 16"))
    assert ofa_caption("cat.jpg", "--output", "c.jsonl", "--beam-size", "99").returncode == 2
    Path("cat.jpg").write_bytes(script(captions=["a cat"]))
    assert ofa_caption("cat.jpg", "--output", "c.jsonl", "--beam-size", "9").returncode == 0
    assert Notes(Path("c.jsonl.settings.json")).settings["beam_size"] == 9


def test_a_line_that_was_cut_short_changes_nothing_about_the_settings():
    caption("c.jsonl", "a.jpg", "b.jpg")
    whole = Path("c.jsonl").read_bytes()
    first = len(whole.splitlines(keepends=True)[0])
    other = {**SETTINGS, "num_captions": 3}
    for cut in (first, first + 5, len(whole) - 1):
        Path("c.jsonl").write_bytes(whole[:cut])
        with pytest.raises(JournalError, match="--num-captions was 1 and is now 3"):
            caption("c.jsonl", "b.jpg", settings=other)
        caption("c.jsonl", "b.jpg")
        assert Path("c.jsonl").read_bytes() == whole
    Path("c.jsonl").write_bytes(whole[: first - 1])  # and nothing was captioned
    caption("c.jsonl", "a.jpg", settings=other)


def test_a_journal_of_an_older_version_goes_on_with_any_settings():
    caption("c.jsonl", "a.jpg")
    Path("c.jsonl.settings.json").unlink()
    for settings in (SETTINGS, {**SETTINGS, "num_captions": 3}):
        caption("c.jsonl", "a.jpg", "b.jpg", settings=settings)
    assert Path("c.jsonl").read_bytes().count(b"\n") == 2


def test_a_setting_that_a_later_version_knows_is_not_compared():
    caption("c.jsonl", "a.jpg")
    caption("c.jsonl", "b.jpg", settings={**SETTINGS, "top_k": 5})
    assert Path("c.jsonl").read_bytes().count(b"\n") == 2


def test_the_records_are_as_they_were():
    caption("c.jsonl", "a.jpg")
    assert Path("c.jsonl").read_text() == '{"image": "a.jpg", "captions": [{"text": "of a.jpg", "score": -0.5}]}\n'
