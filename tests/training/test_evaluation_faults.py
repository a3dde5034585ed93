"""No caption is lost to a report: what it wants is there before anything is captioned, and no picture ends it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from captioned import EXAMPLES, write_jsonl
from ofa_build.cli import main
from ofa_build.data import BadRecords, Record
from ofa_build.evaluation import captioners, metrics
from ofa_build.evaluation.evaluate import Evaluation, Judged, Speed
from ofa_build.evaluation.metrics import Scores
from ofa_build.evaluation.report import write_report
from PIL import Image

EXIF = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x22\0\x02\0\0\0\x15\0\0\0&\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    b"xxxxxxxxxxxmxxxx\xdbxxx\0\x11"
)
"""An orientation beside damage that Pillow meets when it writes the picture's metadata anew."""


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), "red").save(file, "JPEG", **options)
    return file.getvalue()


def shown(folder, *records) -> list[Image.Image]:
    """Write a report, and give its page's pictures."""
    judged = [Judged(record, "a caption", {"CIDEr": 1.0}) for record in records]
    scores = Scores({"CIDEr": 1.0}, {"CIDEr": [1.0] * len(records)}, [record.name for record in records])
    paths = write_report(Evaluation(scores, 0.0, judged, BadRecords(), Speed(1.0, {}), {}), folder, "title")
    data = re.findall('data:image/jpeg;base64,([^"]*)', paths.html.read_text("utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]


def test_a_picture_with_damaged_metadata_is_shown(tmp_path):
    (picture,) = shown(tmp_path, Record("a", lambda: jpeg(exif=EXIF), ("a",)))
    assert picture.size == (32, 64)  # as it was captioned: upright


def test_a_picture_of_16_bits_is_shown_in_its_greys(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 16), 128 << 8, np.uint16)).save(file, "PNG")
    (picture,) = shown(tmp_path, Record("a", file.getvalue, ("a",)))
    assert picture.size == (16, 8)
    assert picture.getpixel((3, 3)) == (128, 128, 128)


def test_a_reader_that_fails_for_the_page_costs_one_picture(tmp_path):
    def fail():
        raise RuntimeError("the archive is closed")

    assert len(shown(tmp_path, Record("a", fail, ("a",)), Record("b", jpeg, ("a",)))) == 1


def test_a_name_that_is_not_utf8_is_written_so_that_it_can_be_read_again(tmp_path):
    shown(tmp_path, Record("caf\udce9.png", jpeg, ("a",)))
    (caption,) = json.loads((tmp_path / "scores.json").read_text("utf-8"))["captions"]
    assert caption["name"] == "caf\udce9.png"


REFUSED = {
    "a file for a folder": (["--out", "{data}"], "no report can be written to {data}: File exists"),
    "a folder in a file": (["--out", "{data}/x"], "no report can be written to {data}/x: Not a directory"),
    "no Java": ([], "COCO's tokenizer runs in Java, which is not installed"),
    "no address": (["--url", "nowhere"], "the server's address must look like"),
    "fewer than none shown": (["--shown", "-1"], "--shown is 0 or more"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_what_no_report_can_be_made_of_is_refused_before_anything_is_captioned(
    tmp_path, caplog, monkeypatch, flags, words
):
    pytest.importorskip("pycocoevalcap", reason="the train extra is not installed")
    data = write_jsonl(tmp_path)
    monkeypatch.setattr(captioners.TorchCaptioner, "answers", lambda *_: pytest.fail("it captions"))
    if flags and "--out" not in flags:
        monkeypatch.setattr(metrics, "tokenize", lambda _texts: None)
    else:
        monkeypatch.setattr(metrics.shutil, "which", lambda _name: None)
    who = [] if "--url" in flags else [str(EXAMPLES.parent / "checkpoints" / "emoji")]
    where = [] if "--out" in flags else ["--out", str(tmp_path / "out")]
    command = ["evaluate", *who, "--data", str(data), "--images", str(EXAMPLES / "images"), *where]
    assert main([*command, *(flag.format(data=data) for flag in flags)]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"ofa-build: {words.format(data=data)}")
