"""The student hears its captions and its teacher; a cache of what the teacher says changes nothing."""

import csv
import gc
import json
import math
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from captioned import EXAMPLES, NAMES, both, write_jsonl
from ofa_build.checkpoint import load_checkpoint
from ofa_build.cli import main
from ofa_build.data.sources import DataOptions
from ofa_build.evaluation.search import normalise_pixels
from ofa_build.model import OFA
from ofa_build.training import distillation, run
from ofa_build.training.average import averaged
from ofa_build.training.distillation import Losses, distil, soft_loss
from ofa_build.training.hooks import Hook
from ofa_build.training.inner_states import Pair, matching_layers, parse_pairs, recording
from ofa_build.training.recipe import Recipe, RecipeError
from PIL import Image, ImageOps
from small_model import EMOJI, weights_of, write_small

pytest.importorskip("accelerate", reason="the train extra is not installed")

RECIPE = Recipe(max_updates=6, batch_size=4, learning_rate=2e-3, warm_up=0.0, save_every=6, log_every=1, workers=0,
                drop_worst=0.0, freeze=("batch-norm",), dropout=0.0, drop_path=0.0)  # fmt: skip
IMAGES = DataOptions(images=EXAMPLES / "images")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    wide = {"d_model": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_layers": 3}
    return write_small(tmp_path_factory.mktemp("teacher"), seed=1, **wide)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_jsonl(tmp_path_factory.mktemp("data")))


def columns(work, name):
    return [float(row[name]) for row in csv.DictReader((work / "log.csv").open())]


def test_the_soft_loss_is_the_cross_entropy_with_the_teachers_distribution():
    wanted, given = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.8, 0.1, 0.1]])
    expected = -(0.5 * math.log(0.8) + 0.5 * math.log(0.1))
    assert soft_loss(given.log(), wanted.log(), 1.0).item() == pytest.approx(expected, rel=1e-5)
    # at temperature 2 both distributions are those of the square roots, and the loss counts four times
    roots = [math.sqrt(p) / sum(map(math.sqrt, wanted[0].tolist())) for p in wanted[0].tolist()]
    others = [math.sqrt(p) / sum(map(math.sqrt, given[0].tolist())) for p in given[0].tolist()]
    expected = -4 * sum(p * math.log(q) for p, q in zip(roots, others, strict=True))
    assert soft_loss(given.log(), wanted.log(), 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert soft_loss(given[:0], wanted[:0], 1.0).item() == 0


def test_recorded_attention_is_each_rows_weights_summed_over_heads(student):
    checkpoint = load_checkpoint(student)
    model = OFA(checkpoint.config).eval()
    pixels = normalise_pixels(torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8), checkpoint.settings)
    prompt, tokens = torch.tensor([0, 5, 2]), torch.tensor([[0, 7, 8], [0, 9, 1]])
    with recording(model, [("encoder", 1), ("decoder", 0)], [("encoder", 1)]) as seen:
        model(pixels, prompt, tokens)
    assert seen.attention["encoder", 1].shape == (2, 7, 7)
    assert seen.attention["decoder", 0].shape == (2, 3, 3)
    torch.testing.assert_close(seen.attention["encoder", 1].sum(-1), torch.full((2, 7), 2.0))  # two heads
    assert seen.attention["decoder", 0].triu(1).abs().max() == 0  # nothing of what is to come
    assert seen.hidden["encoder", 1].shape == (2, 7, 32)
    model(pixels, prompt, tokens[:, :2])
    assert seen.attention["decoder", 0].shape == (2, 3, 3)  # outside, nothing is recorded


def test_a_model_that_is_its_own_teacher_has_nothing_to_match(student, data, tmp_path):
    losses = Losses(hidden_map=(Pair("encoder", 1, 1), Pair("decoder", 0, 0)))
    distil(student, student, data, work_dir=tmp_path, losses=losses, recipe=replace(RECIPE, max_updates=1), data=IMAGES)
    assert columns(tmp_path, "attention") == columns(tmp_path, "hidden") == [pytest.approx(0, abs=1e-9)]


def test_the_student_comes_nearer_to_its_teacher_in_everything_it_is_told(teacher, student, data, tmp_path):
    losses = Losses(hard=0.0, soft=1.0, attention=50.0, hidden_map=(Pair("encoder", 0, 1),))
    recipe = replace(RECIPE, max_updates=20)
    distil(teacher, student, data, work_dir=tmp_path, losses=losses, recipe=recipe, data=IMAGES)
    for name in ("soft", "attention", "hidden"):
        values = columns(tmp_path, name)
        assert sum(values[-3:]) < sum(values[:3]), name
    assert set(weights_of(tmp_path / "last")) == set(weights_of(student))  # the projection stays behind


def test_remembered_outputs_teach_the_same(teacher, student, data, tmp_path):
    losses = Losses(hidden_map=(Pair("decoder", 2, 1), Pair("encoder", 0, 0)))
    common = {"losses": losses, "recipe": replace(RECIPE, max_updates=1), "data": IMAGES}
    runs = {"live": None, "remembering": tmp_path / "cache", "remembered": tmp_path / "cache"}
    for name, cache in runs.items():
        distil(teacher, student, data, work_dir=tmp_path / name, cache=cache, **common)
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == RECIPE.batch_size
    for name in ("hard", "soft", "attention", "hidden"):
        live, remembering, remembered = (columns(tmp_path / run, name) for run in runs)
        assert remembering == pytest.approx(live, rel=1e-3), name
        assert remembered == remembering, name


def test_a_damaged_memory_is_asked_for_again(teacher, student, data, tmp_path, caplog):
    common = {"recipe": replace(RECIPE, max_updates=1), "data": IMAGES, "cache": tmp_path / "cache"}
    distil(teacher, student, data, work_dir=tmp_path / "one", **common)
    damaged = sorted((tmp_path / "cache").rglob("*.pt"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    distil(teacher, student, data, work_dir=tmp_path / "other", **common)
    assert columns(tmp_path / "other", "soft") == columns(tmp_path / "one", "soft")
    assert len(damaged.read_bytes()) == len(whole)
    assert f"{damaged} cannot be read and is written again" in caplog.text


def test_two_runs_at_once_do_not_write_into_one_file(teacher, student, data, tmp_path, monkeypatch):
    files, save = [], torch.save

    def also(example, file):
        if str(file).startswith(str(tmp_path / "cache")):
            files.append(file)
        save(example, file)

    monkeypatch.setattr(torch, "save", also)
    common = {"recipe": replace(RECIPE, max_updates=1), "data": IMAGES, "cache": tmp_path / "cache"}
    for name in ("one", "other"):
        distil(teacher, student, data, work_dir=tmp_path / name, **common)
        for path in (tmp_path / "cache").rglob("*.pt"):
            path.unlink()
    assert len(files) == len(set(files)) == 2 * RECIPE.batch_size


def test_the_weights_that_were_read_are_not_kept_beside_the_models(teacher, student, data, tmp_path, monkeypatch):
    read = []

    def load(source):
        checkpoint = load_checkpoint(source)
        read.extend(map(weakref.ref, checkpoint.state_dict.values()))
        return checkpoint

    for module in (distillation, run):
        monkeypatch.setattr(module, "load_checkpoint", load)

    class Count(Hook):
        def on_start(self, update, updates):
            gc.collect()
            self.kept = sum(tensor() is not None for tensor in read)

    hook = Count()
    recipe = replace(RECIPE, max_updates=1)
    distil(teacher, student, data, work_dir=tmp_path, recipe=recipe, data=IMAGES, hooks=[hook])
    assert read
    assert hook.kept == 0


def test_a_stream_has_no_cache(teacher, student, tmp_path):
    rows = ({"image": name, "captions": both(name)} for name in NAMES)
    with pytest.raises(RecipeError, match="a stream's examples have no names"):
        distil(teacher, student, rows, work_dir=tmp_path, cache=tmp_path / "cache", recipe=RECIPE, data=IMAGES)


def test_what_was_remembered_of_other_data_is_not_heard(teacher, student, data, tmp_path):
    common = {"recipe": replace(RECIPE, max_updates=1), "data": IMAGES}
    rows = [{"image": name, "captions": both(name)} for name in reversed(NAMES)]  # the same numbers, other pictures
    for name, source in (("one", data), ("other", rows)):
        distil(teacher, student, source, work_dir=tmp_path / name, cache=tmp_path / "cache", **common)
    remembered = [list(folder.glob("*.pt")) for folder in (tmp_path / "cache").iterdir()]
    assert list(map(len, remembered)) == [RECIPE.batch_size, RECIPE.batch_size]


def test_what_was_remembered_of_other_pictures_is_not_heard(teacher, student, data, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for name in NAMES:
        with Image.open(EXAMPLES / "images" / name) as image:
            ImageOps.mirror(image).save(others / name)
    common = {"recipe": replace(RECIPE, max_updates=1), "cache": tmp_path / "cache"}
    for folder in (EXAMPLES / "images", others):
        options = replace(IMAGES, images=folder)
        distil(teacher, student, data, work_dir=tmp_path / f"of-{folder.name}", data=options, **common)
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == 2 * RECIPE.batch_size


def test_the_published_map_is_layer_to_layer(teacher, student):
    models = [OFA(load_checkpoint(path).config) for path in (teacher, student)]
    pairs = matching_layers(*(model.config for model in models))
    assert pairs == parse_pairs("encoder:0-0,1-1;decoder:0-0,1-1")
    assert Losses() == Losses(temperature=1, hard=1, soft=0.168, attention=1)


REFUSED = {
    "another image size": ([str(EMOJI)], [], "patch_image_size is 96 for the teacher and 32 for the student"),
    "no such layer": (
        [],
        ["--attention-map", "encoder:5-0"],
        "the teacher's encoder has 2 layers; there is no layer 5",
    ),
    "no map": ([], ["--hidden-map", "middle:0-0"], "--hidden-map: 'middle:0-0' does not begin with encoder: or"),
    "no pair": ([], ["--hidden-map", "encoder:0"], "'0' is no pair of a teacher's and a student's layer"),
    "no temperature": ([], ["--temperature", "0"], "temperature is 0.0; it must be above 0"),
    "worst tokens": ([], ["--drop-worst", "0.2"], "drop_worst leaves out tokens of which the teacher speaks too"),
    "recomputed attention": ([], ["--gradient-checkpointing"], "gradient_checkpointing does not keep the attention"),
}


@pytest.mark.parametrize(("other", "flags", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_distilled_is_refused_in_one_line(teacher, student, data, tmp_path, caplog, other, flags, words):
    run = ["distill", *(other or [str(teacher)]), str(student), "--train", data, "--work", str(tmp_path)]
    assert main([*run, "--images", str(IMAGES.images), *flags]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert words in line


def test_the_command_is_the_call(teacher, student, data, tmp_path):
    distil(teacher, student, data, work_dir=tmp_path / "call", recipe=replace(RECIPE, max_updates=2), data=IMAGES)
    flags = ["--max-updates=2", "--batch-size=4", "--learning-rate=2e-3", "--warm-up=0", "--workers=0", "--dropout=0"]
    run = ["distill", str(teacher), str(student), "--train", data, "--images", str(IMAGES.images), "--drop-path=0"]
    work = tmp_path / "command"
    assert main([*run, *flags, "--freeze", "batch-norm", "--log-every=1", "--work", str(work)]) == 0
    assert columns(work, "soft") == columns(tmp_path / "call", "soft")


def with_vocabulary(checkpoint, folder, change):
    shutil.copytree(checkpoint, folder)
    entries = change(json.loads((folder / "vocab.json").read_text()))
    (folder / "vocab.json").write_text(json.dumps(entries, indent=1))
    return folder


def swapped(entries):
    one, other = (token for token, number in entries.items() if number in (40, 41))
    return entries | {one: entries[other], other: entries[one]}


def test_a_vocabulary_is_the_same_however_its_file_is_written(teacher, student, data, tmp_path):
    rewritten = with_vocabulary(student, tmp_path / "rewritten", lambda entries: dict(sorted(entries.items())))
    recipe = replace(RECIPE, max_updates=1)
    distil(teacher, rewritten, data, work_dir=tmp_path / "run", recipe=recipe, data=IMAGES)
    checkpoint = load_checkpoint(student)
    averaged([checkpoint, load_checkpoint(rewritten)])
    other = with_vocabulary(student, tmp_path / "other", swapped)
    with pytest.raises(RecipeError, match="different vocabularies"):
        distil(teacher, other, data, work_dir=tmp_path / "refused", recipe=recipe, data=IMAGES)
    with pytest.raises(RecipeError, match="the checkpoints differ in their vocabulary"):
        averaged([checkpoint, load_checkpoint(other)])


def test_a_vocabulary_of_its_own_is_refused(teacher, data, tmp_path):
    golden = EXAMPLES.parent / "tests" / "golden" / "data" / "en-default" / "checkpoint"
    with pytest.raises(RecipeError, match="different vocabularies"):
        distil(golden, teacher, data, work_dir=tmp_path, recipe=RECIPE, data=IMAGES)
