"""Captioned images in every format are the same records; what is bad is counted, named and skipped."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from captioned import EXAMPLES, NAMES, both, write_coco, write_csv, write_jsonl, write_karpathy, write_tsv
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data import BadRecords, DataError, open_data
from ofa_build.data import batches as batches_module
from ofa_build.data.batches import Batches, Encoding, Share
from ofa_build.data.captions import encode_target, normalise
from ofa_build.data.records import Record
from ofa_serving.images import load_pixels
from PIL import Image
from small_checkpoints import golden_checkpoint

IMAGES = EXAMPLES / "images"
WRITERS = {"coco": write_coco, "karpathy": write_karpathy, "tsv": write_tsv, "jsonl": write_jsonl}


def captions_of(data) -> list[tuple[str, ...]]:
    return [record.captions for record in data.records]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, kind):
    data = open_data(WRITERS[kind](tmp_path), images=None if kind == "tsv" else IMAGES)
    assert captions_of(data) == [tuple(both(name)) for name in NAMES]
    assert [record.read() for record in data.records] == [(IMAGES / name).read_bytes() for name in NAMES]
    assert len(data.bad) == 0


def test_a_csvs_rows_of_one_image_are_one_record(tmp_path):
    path = write_csv(tmp_path, columns=("picture", "said"))
    path.write_text(path.read_text() + f"./{NAMES[0]},a third\n")
    data = open_data(path, images=IMAGES, columns={"image": "picture", "caption": "said"})
    assert captions_of(data) == [(*both(NAMES[0]), "a third"), *(tuple(both(name)) for name in NAMES[1:])]
    assert [record.read() for record in data.records] == [(IMAGES / name).read_bytes() for name in NAMES]


class Columnar:
    """What is used of a ``datasets.Dataset`` that names files."""

    column_names = ("image", "caption")
    features = dict.fromkeys(column_names, SimpleNamespace(dtype="string"))

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, wanted):
        if isinstance(wanted, int):
            return self.rows[wanted]
        return {name: [row[name] for row in self.rows[wanted]] for name in self.rows[0]}

    def select_columns(self, names):
        return Columnar([{name: row[name] for name in names} for row in self.rows])


def test_rows_of_an_object_that_name_one_file_are_one_record():
    rows = [{"image": name, "caption": text} for text in ("one", "two") for name in NAMES]
    assert captions_of(open_data(rows, images=IMAGES)) == [("one", "two")] * len(NAMES)
    assert captions_of(open_data(Columnar(rows), images=IMAGES)) == [("one", "two")] * len(NAMES)
    pictures = [{"image": (IMAGES / NAMES[0]).read_bytes(), "caption": text} for text in ("one", "two")]
    assert captions_of(open_data(pictures)) == [("one",), ("two",)]  # nothing says that they are one image


def test_a_tsvs_rows_of_one_image_are_one_record(tmp_path):
    lines = write_tsv(tmp_path, NAMES[:2]).read_text().splitlines()
    again = [line.replace("&&".join(both(name)), "again") for line, name in zip(lines, NAMES, strict=False)]
    (tmp_path / "train.tsv").write_text("\n".join([*lines, *again]))
    assert captions_of(open_data(tmp_path / "train.tsv")) == [(*both(name), "again") for name in NAMES[:2]]


def test_a_folder_is_its_images_and_its_table(tmp_path):
    for name in NAMES:
        shutil.copy(IMAGES / name, tmp_path)
    write_jsonl(tmp_path)
    data = open_data(tmp_path)
    assert [record.name for record in data.records] == list(NAMES)
    assert data.records[2].read() == (IMAGES / NAMES[2]).read_bytes()


def test_a_pattern_joins_shards(tmp_path):
    write_tsv(tmp_path, NAMES[:3], "train-0.tsv")
    write_tsv(tmp_path, NAMES[3:], "train-1.tsv")
    assert captions_of(open_data(tmp_path / "train-*.tsv")) == [tuple(both(name)) for name in NAMES]


def test_karpathys_training_split_has_cocos_remaining_images(tmp_path):
    path = write_karpathy(tmp_path)
    assert captions_of(open_data(path, images=IMAGES, split="train")) == [tuple(both(name)) for name in NAMES[:2]]
    assert captions_of(open_data(f"{path}:test", images=IMAGES)) == [tuple(both(NAMES[3]))]
    with pytest.raises(DataError, match="no split dev; there are train, val, test"):
        open_data(path, split="dev")


IMAGE_COLUMN = {
    "paths": lambda name: str(IMAGES / name),
    "bytes": lambda name: (IMAGES / name).read_bytes(),
    "pictures": lambda name: Image.open(IMAGES / name),
    "arrays": lambda name: np.asarray(Image.open(IMAGES / name).convert("RGB")),
    "as datasets has undecoded images": lambda name: {"bytes": (IMAGES / name).read_bytes(), "path": None},
}


@pytest.mark.parametrize("kind", IMAGE_COLUMN)
def test_rows_of_an_object_are_records_by_a_column_map(kind):
    rows = [{"picture": IMAGE_COLUMN[kind](name), "text": both(name)[0], "id": 1} for name in NAMES]
    data = open_data(rows, columns={"image": "picture", "caption": "text"})
    assert captions_of(data) == [(both(name)[0],) for name in NAMES]
    for record, name in zip(data.records, NAMES, strict=True):
        seen = np.asarray(Image.open(io.BytesIO(record.read())).convert("RGB"))
        np.testing.assert_array_equal(seen, np.asarray(Image.open(IMAGES / name).convert("RGB")))


def test_a_picture_in_colours_that_png_lacks_is_what_its_file_is():
    stream = io.BytesIO()
    Image.open(IMAGES / NAMES[0]).convert("CMYK").save(stream, "JPEG")
    rows = [{"image": Image.open(io.BytesIO(stream.getvalue())), "caption": "a picture"}]
    (record,) = open_data(rows).records
    np.testing.assert_array_equal(load_pixels(record.read(), 32), load_pixels(stream.getvalue(), 32))


def test_whatever_a_reader_raises_is_one_bad_record(encoding):
    def read():
        raise Image.DecompressionBombError("too many pixels")

    assert encoding.example(Record("row 7", read, ("a cat",)), (7, 0)) == ("row 7", "too many pixels")


BAD_LINES = {
    '{"image": "none.png", "caption": "a cat"}': "the image file is missing",
    '{"image": "owl.png"}': "the row has no caption",
    '{"caption": "a cat"}': "the row has no image",
    '{"image": "owl.png", "caption": "  "}': "the caption is empty",
    '{"image": "owl.png", "caption": 3}': "the caption is not a text",
    '{"image": 7, "caption": "a cat"}': "the image is of type int",
    '{"image": "owl.png", "cap': "the line is not a JSON object",
    "[1, 2]": "the line is not a JSON object",
    '{"image": "captions.jsonl", "caption": "no image at all"}': "UNSUPPORTED_FORMAT",
    '{"image": "cut.jpg", "caption": "a cut image"}': "TRUNCATED_IMAGE",
}


@pytest.fixture
def bad_folder(tmp_path):
    for name in NAMES:
        shutil.copy(IMAGES / name, tmp_path)
    (tmp_path / "cut.jpg").write_bytes((IMAGES / "gift.jpg").read_bytes()[:4000])
    good = write_jsonl(tmp_path).read_text()
    (tmp_path / "captions.jsonl").write_text(good + "\n".join(BAD_LINES))
    return tmp_path


@pytest.fixture(scope="module")
def encoding():
    checkpoint = load_checkpoint(golden_checkpoint())
    return Encoding(checkpoint.tokenizer, image_size=32, max_words=20, max_tokens=64)


def test_bad_records_are_counted_named_and_skipped(bad_folder, encoding):
    data = open_data(bad_folder)
    batches = Batches(data, encoding, Share(batch_size=4))
    seen = [key for (batch,) in batches.updates(0, batches.updates_per_epoch) for key in batch.keys]
    assert sorted(seen) == [(record, caption) for record in range(4) for caption in range(2)]
    assert len(data.bad) == len(BAD_LINES)
    for reason, words in zip(sorted(data.bad.reasons.values()), sorted(BAD_LINES.values()), strict=True):
        assert reason.startswith(words)
    assert "captions.jsonl:6 (the row has no caption)" in data.bad.summary()
    list(batches.updates(0, batches.updates_per_epoch))
    assert len(data.bad) == len(BAD_LINES)  # each counts once, however often it is met


def test_too_many_bad_records_stop_the_run(bad_folder, encoding):
    with pytest.raises(DataError, match=r"more than 3 records are bad: captions.jsonl:6 \(the row has no caption\);"):
        open_data(bad_folder, max_bad=3)
    data = open_data(bad_folder, max_bad=len(BAD_LINES) - 1)
    batches = Batches(data, encoding, Share(batch_size=4))
    with pytest.raises(DataError, match=f"more than {len(BAD_LINES) - 1} records are bad"):
        list(batches.updates(0, batches.updates_per_epoch))


UNUSABLE = {
    "nothing there": (lambda folder: folder / "none.json", "there is no data at"),
    "a folder without a table": (lambda folder: folder, "has none of captions.jsonl"),
    "another kind of file": (lambda folder: _write(folder / "a.txt", "x"), "a.txt is not .json, .jsonl, .csv or .tsv"),
    "JSON of something else": (lambda folder: _write(folder / "a.json", "{}"), "a.json has no list of images"),
    "no JSON": (lambda folder: _write(folder / "a.json", "{"), "a.json is not JSON"),
    "a missing column": (lambda folder: write_csv(folder, columns=("file_name", "said")), "has no column caption or"),
    "a short row": (lambda folder: _write(folder / "a.tsv", "1\t2\ta cat\n"), "the row has 3 columns, not 5"),
}


def _write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(("make", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_data_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, make, words):
    with pytest.raises(DataError) as refusal:
        open_data(make(tmp_path))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no column label; it has file_name, caption"):
        open_data(write_csv(tmp_path), columns={"caption": "label"})
    with pytest.raises(DataError, match="a column map has image and caption, not picture"):
        open_data([], columns={"picture": "image"})


def test_an_annotation_of_no_image_is_bad(tmp_path):
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"] += [{"id": 90, "image_id": 5, "caption": "x"}, {"id": 91, "image_id": 10}]
    path.write_text(json.dumps(content))
    data = open_data(path, images=IMAGES)
    assert data.bad.reasons == {"annotation 90": "there is no image 5", "annotation 91": "it has no caption"}


def test_captions_are_normalised_as_modelscopes_trainer_does():
    assert normalise(" A dog's  ball, \n(red)!  ", max_words=20) == "A dogs ball red"
    assert normalise("one two three four", max_words=3) == "one two three"


def test_a_target_is_the_captions_tokens_and_the_end():
    tokenizer = load_checkpoint(golden_checkpoint()).tokenizer
    target = encode_target(tokenizer, "The image.", 20, 64)
    assert target == [*tokenizer.encode("The image"), tokenizer.special.eos]
    assert encode_target(tokenizer, "The image.", 20, 3) == [*tokenizer.encode("The image")[:3], tokenizer.special.eos]
    prefixed = encode_target(tokenizer, "The image.", 20, 64, prefix=" ")
    assert prefixed == [*tokenizer.encode(" The image"), tokenizer.special.eos] != target


def keys_by_update(batches, first, last):
    return [[key for batch in update for key in batch.keys] for update in batches.updates(first, last)]


@pytest.mark.parametrize("streaming", [False, True])
def test_processes_and_resumption_do_not_change_what_an_update_sees(tmp_path, encoding, streaming):
    source = write_tsv(tmp_path, NAMES + tuple(name for name in sorted(p.name for p in IMAGES.iterdir())))

    def batches(**options):
        return Batches(open_data(source, streaming=streaming), encoding, Share(**options), seed=5)

    whole = keys_by_update(batches(batch_size=8), 0, 6)
    assert len(set(map(tuple, whole))) == 6
    halves = [keys_by_update(batches(batch_size=2, accumulation=2, processes=2, rank=rank), 0, 6) for rank in (0, 1)]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole
    assert keys_by_update(batches(batch_size=8), 4, 6) == whole[4:]


def test_a_streams_batch_is_of_different_images(encoding, monkeypatch):
    monkeypatch.setattr(encoding.__class__, "example", lambda _self, record, key: (record.name, "seen"))
    monkeypatch.setattr(batches_module, "_SHUFFLE_BUFFER", 100)
    rows = ({"image": "x.png", "captions": [f"{number} {caption}" for caption in range(5)]} for number in range(800))
    examples = batches_module._StreamedBatches(
        Batches(open_data(iter(rows)), encoding, Share(batch_size=8)), 0, 500
    )._examples()
    keys = [key for _, key in itertools.islice(examples, 4000)]
    assert len(set(keys)) == 4000  # every caption once, before any comes again
    distinct = [len({record for record, _ in keys[first : first + 8]}) for first in range(0, 4000, 8)]
    assert np.mean(distinct) > 7


def test_an_epoch_shows_every_example_once_in_a_new_order(tmp_path, encoding):
    batches = Batches(open_data(write_tsv(tmp_path)), encoding, Share(batch_size=3))
    assert batches.updates_per_epoch == 3
    epochs = [list(itertools.chain(*keys_by_update(batches, 3 * epoch, 3 * epoch + 3))) for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [(record, caption) for record in range(4) for caption in range(2)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epochs_last_update_is_spread_over_fewer_batches_and_none_is_empty(tmp_path, encoding, processes):
    source = write_tsv(tmp_path)  # four records with two captions each
    shares = [Share(batch_size=2, accumulation=3, processes=processes, rank=rank) for rank in range(processes)]
    last = 1 if processes == 1 else 0
    found = [next(Batches(open_data(source), encoding, share).updates(last, last + 1)) for share in shares]
    assert [[batch.images for batch in update] for update in found] == ([[2]] if processes == 1 else [[2, 2], [2, 2]])
    odd = [share.of(list(range(5))) for share in shares]
    assert odd == ([[[0, 1], [2, 3], [4]]] if processes == 1 else [[[0, 1], [2]], [[3], [4]]])


def test_a_share_without_examples_still_has_a_batch_that_counts_for_nothing(tmp_path, encoding):
    batches = Batches(open_data(write_tsv(tmp_path, NAMES[:1])), encoding, Share(batch_size=2, processes=3, rank=2))
    ((batch,),) = batches.updates(0, 1)
    assert batch.images == 0
    assert batch.pixels.shape == (1, 32, 32, 3)
    assert (batch.targets == encoding.tokenizer.special.pad).all()


WITH_WORKERS = """
import json, sys
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data import open_data
from ofa_build.data.batches import Batches, Encoding, Share

source, checkpoint, streaming = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
encoding = Encoding(load_checkpoint(checkpoint).tokenizer, image_size=32, max_words=20, max_tokens=64)
found = []
for workers in (0, 2):
    data = open_data(source, streaming=streaming)
    batches = Batches(data, encoding, Share(batch_size=3, accumulation=2), workers=workers)
    updates = [[batch.keys for batch in update] for update in batches.updates(0, 4)]
    found.append({"updates": updates, "bad": sorted(data.bad.reasons)})
print(json.dumps(found))
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_change_neither_the_examples_nor_the_account(bad_folder, streaming):
    """In a process of its own: workers are forked, which a process that has run servers should not be."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [str(bad_folder / "captions.jsonl"), str(golden_checkpoint()), str(streaming)]
    command = [sys.executable, "-c", WITH_WORKERS, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, together = json.loads(done.stdout)
    assert together == alone
    assert len(alone["bad"]) == len(BAD_LINES)


def test_the_account_names_five_and_counts_the_rest():
    bad = BadRecords()
    for number in range(7):
        bad.add(f"n{number}", "why")
    assert bad.summary() == "n0 (why); n1 (why); n2 (why); n3 (why); n4 (why) and 2 more"
