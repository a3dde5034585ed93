"""Files with what people's files have: no fault in a row ends the others, and none of it is taught."""

import json

import pytest
from captioned import EXAMPLES, NAMES, both, write_coco, write_karpathy
from ofa_build.data import DataError, open_data

IMAGES = EXAMPLES / "images"


def opened(path, **options):
    """Give the captions of each image by its name, and why others were skipped."""
    data = open_data(path, images=IMAGES, **options)
    records = data.open() if options.get("streaming") else data.records
    return {record.name: record.captions for record in records}, data.bad.reasons


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


NOTHING = {
    "half of a character": (r"an owl \ud83d", "the caption is not UTF-8"),
    "punctuation alone": ("!!! -- ...", "the caption is empty"),
}


@pytest.mark.parametrize(("caption", "reason"), NOTHING.values(), ids=NOTHING)
def test_a_caption_that_cannot_be_taught_makes_one_bad_record(tmp_path, caption, reason):
    lines = ['{"image": "boat.png", "caption": "a boat"}', f'{{"image": "owl.png", "captions": ["{caption}"]}}']
    captions, bad = opened(write(tmp_path, "t.jsonl", "\n".join(lines)))
    assert captions == {"boat.png": ("a boat",)}
    assert bad == {"t.jsonl:2": reason}


def test_a_caption_of_punctuation_alone_is_none_of_several(tmp_path):
    captions, bad = opened(write(tmp_path, "t.jsonl", '{"image": "owl.png", "captions": ["an owl", "?!", " "]}'))
    assert captions == {"owl.png": ("an owl",)}
    assert not bad


def test_a_line_of_endless_brackets_is_one_bad_record(tmp_path):
    text = "[" * 100_000 + '\n{"image": "owl.png", "caption": "an owl"}'
    assert opened(write(tmp_path, "t.jsonl", text)) == (
        {"owl.png": ("an owl",)},
        {"t.jsonl:1": "the line is not a JSON object"},
    )


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_what_a_table_has_in_another_encoding_is_skipped(tmp_path, encoding):
    caption = "a café" if encoding == "latin-1" else "一只黑色的猫"
    rows = f"image,caption\nboat.png,a boat\nowl.png,{caption}\n".encode(encoding)
    assert opened(write(tmp_path, "t.csv", rows)) == (
        {"boat.png": ("a boat",)},
        {"t.csv:3": "the caption is not UTF-8"},
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_whose_header_is_in_another_encoding_is_refused(tmp_path, encoding):
    header = "image,légende".encode(encoding)
    with pytest.raises(DataError, match=r"t\.csv is not UTF-8"):
        open_data(write(tmp_path, "t.csv", header + b"\nowl.png,an owl\n"), columns={"caption": "légende"})


def test_an_images_name_may_be_in_another_encoding(tmp_path):
    name = "ein schönes boot.png".encode("latin-1")
    write(tmp_path, "t.csv", b"image,caption\n" + name + b",a boat\n")
    try:
        (tmp_path / "x").parent.joinpath(name.decode("utf-8", "surrogateescape")).write_bytes(b"picture")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (record,) = open_data(tmp_path / "t.csv").records
    assert record.read() == b"picture"


QUOTES = "a quote is not closed, or not doubled in a field"
CSV_FAULTS = {
    "a field too long": ("x" * 200_000, "a field is too long"),
    "a quote that is not closed": ('"a cat', QUOTES),
    "a quote within quotes": ('"a "red" cat"', QUOTES),
    "a comma without quotes": ("a cat, asleep", "the row has 3 fields, the header 2: one with a comma wants quotes"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("field", "reason"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_row_at_fault_is_named_and_takes_no_other_with_it(tmp_path, field, reason, streaming):
    rows = [
        "image,caption",
        'boat.png,"a boat,\nafloat"',
        f"gift.jpg,{field}",
        "owl.png,an owl",
        'heart.webp,12" heart',
    ]
    captions, bad = opened(write(tmp_path, "t.csv", "\r\n".join(rows)), streaming=streaming)
    assert captions == {"boat.png": ("a boat,\nafloat",), "owl.png": ("an owl",), "heart.webp": ('12" heart',)}
    assert bad == {"t.csv:4": reason}


def test_a_quote_that_no_other_row_closes_is_told_of_a_large_file_too(tmp_path):
    rows = ['a.jpg,"a cat', *["b.jpg,an owl on a pink background"] * 5000]  # more than a field may have
    captions, bad = opened(write(tmp_path, "t.csv", "\n".join(["image,caption", *rows])))
    assert set(captions) == {"b.jpg"}
    assert bad == {"t.csv:2": QUOTES}


def test_a_quote_that_another_row_seems_to_close_takes_none_with_it(tmp_path):
    rows = ["image,caption", 'boat.png,"a boat', "gift.jpg,a gift", 'owl.png,"an owl"']
    captions, bad = opened(write(tmp_path, "t.csv", "\n".join(rows)))
    assert captions == {"gift.jpg": ("a gift",), "owl.png": ("an owl",)}
    assert bad == {"t.csv:2": QUOTES}


def test_rows_with_empty_fields_and_empty_rows_are_no_fault(tmp_path):
    assert opened(write(tmp_path, "t.csv", "image,caption\n\nowl.png,an owl,,\n")) == ({"owl.png": ("an owl",)}, {})


def test_a_header_at_fault_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv, line 1: a quote is not closed"):
        open_data(write(tmp_path, "t.csv", '"image,caption\nowl.png,an owl\n'))


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_json_files_byte_order_mark_is_no_fault(tmp_path, mark):
    content = write_coco(tmp_path).read_text()
    captions, bad = opened(write(tmp_path, "t.json", content.encode(mark)))
    assert captions == {name: tuple(both(name)) for name in NAMES}
    assert not bad


def coco(folder, more_images=(), more_annotations=()):
    path = write_coco(folder)
    content = json.loads(path.read_text())
    content["images"] += more_images
    content["annotations"] += more_annotations
    path.write_text(json.dumps(content))
    return opened(path)


def test_images_of_one_id_have_no_captions_that_are_known_to_be_theirs(tmp_path):
    other = {"id": 10, "file_name": "robot.png"}
    captions, bad = coco(tmp_path, [other], [{"id": 90, "image_id": 10, "caption": "a robot"}])
    assert captions == {name: tuple(both(name)) for name in NAMES[1:]}
    assert bad == dict.fromkeys((NAMES[0], "robot.png"), "its id 10 is another image's too")


def test_an_image_that_is_listed_again_is_one(tmp_path):
    captions, bad = coco(tmp_path, [{"id": 10, "file_name": NAMES[0]}])
    assert list(captions) == list(NAMES)
    assert not bad


def test_entries_of_cocos_file_that_are_none_are_named(tmp_path):
    images = [None, "x", {"file_name": "a.png"}, {"id": [1], "file_name": "b.png"}, {"id": 20, "file_name": 3}]
    annotations = [
        None,
        {"id": 90, "caption": "x"},
        {"id": 0, "image_id": {}, "caption": "x"},
        {"image_id": 20, "caption": "x"},
    ]
    captions, bad = coco(tmp_path, images, annotations)
    assert captions == {name: tuple(both(name)) for name in NAMES}
    assert bad == {
        **dict.fromkeys(("image 4", "image 5", "a.png", "b.png"), "the image has no id"),
        **dict.fromkeys(("annotation 8", "annotation 90", "annotation 0"), "it names no image"),
        "3": "the image has no file name",
    }


def test_annotations_that_are_no_list_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"t\.json has no list of annotations"):
        open_data(write(tmp_path, "t.json", '{"images": [], "annotations": {}}'))


def test_entries_of_karpathys_file_that_are_none_are_named(tmp_path):
    path = write_karpathy(tmp_path)
    content = json.loads(path.read_text())
    content["images"] += [
        "x",
        {"filename": "a.png", "split": "val", "sentences": None},
        {"filename": "b.png", "split": [], "sentences": ["x"]},
        {"filename": "c.png", "filepath": 3, "sentences": [{"raw": "a cat"}]},
    ]
    path.write_text(json.dumps(content))
    captions, bad = opened(path)
    assert captions == {**{name: tuple(both(name)) for name in NAMES}, "c.png": ("a cat",)}
    assert bad == {
        "image 4": "the image has no file name",
        **dict.fromkeys(("a.png", "b.png"), "the caption is not a text"),
    }
    captions, bad = opened(path, split="val")
    assert list(captions) == [NAMES[2]]
    assert list(bad) == ["a.png"]


def test_what_cannot_be_streamed_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(DataError, match=r"coco\.json is one object and cannot be streamed"):
        open_data(write_coco(tmp_path), streaming=True)


UNREADABLE = {
    ".": "the image file cannot be read (Is a directory)",
    "a\\u0000b.png": "no file can have the image's name",
    "\\ud83d.png": "no file can have the image's name",
}


@pytest.mark.parametrize(("name", "reason"), UNREADABLE.items())
def test_why_an_image_cannot_be_read_is_said_without_its_path(tmp_path, name, reason):
    (record,) = open_data(write(tmp_path, "t.jsonl", f'{{"image": "{name}", "caption": "a cat"}}')).records
    with pytest.raises(DataError) as refusal:
        record.read()
    assert str(refusal.value) == reason
