"""CSV, Parquet and COCO results made from the journal; the progress that is shown."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from ofa_client.bulk.formats import coco_image_id, convert, format_of
from ofa_client.bulk.progress import Progress

RECORDS = [
    {"image": "val/COCO_val2014_000000391895.jpg", "captions": [{"text": "a man, on a bike", "score": -0.25}]},
    {"image": "猫.jpg", "captions": [{"text": "一只猫", "score": -0.5}, {"text": 'a "cat"', "score": -1.0}]},
    {"image": "caf\udce9.jpg", "captions": [{"text": "two\nlines", "score": -0.75}]},
]


def test_csv_has_a_row_a_caption(tmp_path):
    convert(RECORDS, tmp_path / "c.csv", "csv")
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["caption"], float(row["score"])) for row in rows] == [
        ("1", "a man, on a bike", -0.25),
        ("1", "一只猫", -0.5),
        ("2", 'a "cat"', -1.0),
        ("1", "two\nlines", -0.75),
    ]


def test_coco_has_the_best_caption_of_an_image(tmp_path):
    convert(RECORDS, tmp_path / "c.json", "coco")
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"image_id": 391895, "caption": "a man, on a bike"},
        {"image_id": "猫", "caption": "一只猫"},
        {"image_id": "caf\udce9", "caption": "two\nlines"},
    ]


@pytest.mark.parametrize(
    ("key", "image_id"), [("000000000139.jpg", 139), ("a/b/7", 7), ("shard.tar/12.jpg", 12), ("x", "x"), ("", "")]
)
def test_coco_image_ids(key, image_id):
    assert coco_image_id(key) == image_id


def test_parquet_has_a_row_an_image(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    convert(RECORDS, tmp_path / "c.parquet", "parquet")
    rows = parquet.read_table(tmp_path / "c.parquet").to_pylist()
    assert [row["caption"] for row in rows] == ["a man, on a bike", "一只猫", "two\nlines"]
    assert rows[1]["captions"] == [{"text": "一只猫", "score": -0.5}, {"text": 'a "cat"', "score": -1.0}]


@pytest.mark.parametrize("file_format", ["csv", "coco", "parquet"])
def test_no_records_make_an_empty_file(tmp_path, file_format):
    if file_format == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet is an extra")
    convert([], tmp_path / "c", file_format)
    assert (tmp_path / "c").stat().st_size > 0


def test_a_conversion_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "c.csv").write_text("old")
    with pytest.raises(KeyError):
        convert([{"image": "x"}], tmp_path / "c.csv", "csv")
    assert (tmp_path / "c.csv").read_text() == "old"


def test_the_suffix_says_the_format():
    names = {"a.jsonl": "jsonl", "a.csv": "csv", "a.parquet": "parquet", "a.json": "coco", "A.CSV": "csv"}
    assert {name: format_of(Path(name)) for name in names} == names
    with pytest.raises(ValueError, match="is not clear"):
        format_of(Path("a.doc"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_a_bar_with_rate_and_time_left():
    progress = Progress(Terminal(), already=500)
    progress.total = 1000
    for _ in range(90):
        progress.add()
    for _ in range(10):
        progress.add(failed=True)
    assert progress.line(progress._begun + 10) == "############--------  60%  600/1000  10.0/s  0:40 left  10 failed"


def test_before_the_images_are_counted_no_time_left_is_shown():
    progress = Progress(Terminal())
    progress.add()
    assert progress.line(progress._begun + 1) == "1 images  1.0/s"


def test_no_more_than_all_is_shown_as_done():
    """What an earlier run did may be other images than this run's."""
    progress = Progress(Terminal(), already=4)
    progress.total = 1
    progress.add()
    assert progress.line(progress._begun + 1) == "#################### 100%  1/1  1.0/s  0:00 left"


def test_the_rate_is_of_late():
    progress = Progress(Terminal())
    progress.total = 100_000
    for _ in range(3000):
        progress.add()
    progress.line(progress._begun + 10)
    progress.line(progress._begun + 100)
    assert "0.0/s" in progress.line(progress._begun + 140)


def test_elsewhere_there_are_plain_lines():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.add()
    assert stream.getvalue() == ""  # not yet time
    progress.close()
    assert stream.getvalue().startswith("1 images")
    assert "\r" not in stream.getvalue()
