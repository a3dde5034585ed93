"""Pretraining on scenes: what the image encoder and the captioner learn from, and what they leave behind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import load_checkpoint, save_checkpoint
from ofa_build.model import OFA
from ofa_build.scenes.art import Art
from ofa_build.scenes.dataset import SceneFiles, write_dataset
from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.references import references
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import write_vocabulary
from ofa_serving.tokenizer import Tokenizer

pytest.importorskip("accelerate", reason="the train extra is not installed")

from ofa_build.data import open_data
from ofa_build.training.average import averaged
from ofa_build.training.captioner import CAPTIONER, train_captioner
from ofa_build.training.deeper import deepened
from ofa_build.training.image_encoder import PRETRAINING, STUDENT, ImageEncoderRun, Pictures
from ofa_build.training.objectives import CrossEntropy
from ofa_build.training.recipe import RecipeError
from ofa_build.training.run import student
from ofa_build.training.scene_data import SceneDataset

RECIPE = replace(PRETRAINING, max_updates=3, batch_size=4, warm_up=0.0, save_every=10, workers=0)


@pytest.fixture(scope="module")
def art() -> Art:
    """Every training style draws an object as a square of a colour of its own."""
    colours = np.random.default_rng(0).integers(256, size=(len(OBJECTS), 1, 1, 3), dtype=np.uint8)
    glyphs = np.full((len(OBJECTS), 160, 160, 4), 255, dtype=np.uint8)
    glyphs[..., :3] = colours
    return Art(dict.fromkeys(TRAINING_STYLES, glyphs))


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a tiny model's configuration in it."""
    small = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    config = replace(STUDENT, vocab_size=write_vocabulary(tmp_path), **small)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return tmp_path


def pretraining(folder, art, recipe=RECIPE):
    return ImageEncoderRun(folder, recipe, art, image_size=64)


def batch_of(sampler, art, folder):
    dataset = SceneDataset(sampler, art, Tokenizer.load(folder, "en"), image_size=64)
    return dataset.collate([dataset[index] for index in range(4)])


def test_a_scene_is_its_picture_its_caption_and_where_things_are(art, folder):
    batch = batch_of(SceneSampler(Split.TRAIN), art, folder)
    assert batch.pixels.shape == (4, 64, 64, 3)
    assert batch.classes.shape == batch.centres.shape == (4, 4, 4)
    special = Tokenizer.load(folder, "en").special
    for target in batch.targets:
        assert (target == special.eos).sum() == 1
        assert (target[target.tolist().index(special.eos) + 1 :] == special.pad).all()


def test_pixels_reach_the_model_as_the_server_normalises_them(art, folder):
    batch = batch_of(SceneSampler(Split.TRAIN), art, folder)
    expected = (batch.pixels.numpy().transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(batch.normalised().numpy(), expected, atol=1e-6)


def test_crowded_collages_and_scenes_take_turns_and_a_continued_stream_goes_on(art, folder):
    pictures = Pictures(art, Tokenizer.load(folder, "en"), RECIPE, image_size=64)
    whole = [batch for (batch,) in pictures.updates(0, 5)]
    assert [batch.targets.shape[1] > 0 for batch in whole] == [False, True, False, True, False]
    for start in (1, 2):
        for (batch,), same in zip(pictures.updates(start, 5), whole[start:], strict=True):
            assert torch.equal(batch.pixels, same.pixels)


def test_only_the_image_encoder_learns_from_what_is_where(art, folder):
    run = pretraining(folder, art)
    terms = run.objective(batch_of(CollageSampler(), art, folder), 0)
    assert set(terms) == {"classes", "centres"}
    sum(term.value for term in terms.values()).backward()
    taught = {name for name, weight in run.model.named_parameters() if weight.grad is not None}
    assert taught == {f"encoder.embed_images.{name}" for name, _ in run.model.encoder.embed_images.named_parameters()}


def test_a_batch_is_learned(art, folder):
    run = pretraining(folder, art)
    batch = batch_of(SceneSampler(Split.TRAIN), art, folder)
    optimizer = torch.optim.AdamW(run.objective.parameters(), lr=2e-3)
    totals = []
    for _ in range(15):
        terms, units = run.objective(batch, 0), run.objective.units(batch, 0)
        total = sum(term.weight * term.value / units[term.per] for term in terms.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < 0.6 * totals[0]


def test_a_run_leaves_a_checkpoint_without_its_training_head(art, folder):
    run = pretraining(folder, art)
    checkpoint = load_checkpoint(run.train())
    assert checkpoint.settings.patch_image_size == 64
    assert checkpoint.config == run.config
    for name, weight in run.model.state_dict().items():
        own = checkpoint.state_dict[name]
        torch.testing.assert_close(own, weight, atol=1e-3, rtol=1e-3, check_dtype=False)


def test_the_captioner_learns_from_recorded_features_and_leaves_the_image_encoder_alone(art, folder, tmp_path):
    source = pretraining(folder, art, replace(RECIPE, max_updates=2)).train()
    recipe = replace(CAPTIONER, epochs=10, batch_size=4, learning_rate=5e-3, workers=0, log_every=2)
    after = load_checkpoint(train_captioner(source, tmp_path / "captioner", recipe, art, scenes=8, first=0))
    before = load_checkpoint(source)
    changed = {name for name, one in before.state_dict.items() if not torch.equal(one, after.state_dict[name])}
    assert changed
    assert not any("embed_images" in name for name in changed)
    rows = (tmp_path / "captioner" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]


def test_a_finished_captioner_is_passed_over_without_recording_anything(art, folder, tmp_path):
    source = pretraining(folder, art, replace(RECIPE, max_updates=1)).train()
    recipe = replace(CAPTIONER, epochs=1, batch_size=4, workers=0)
    done = train_captioner(source, tmp_path / "captioner", recipe, art, scenes=4, first=0)
    blind = Art({})
    assert train_captioner(source, tmp_path / "captioner", recipe, blind, scenes=4, first=0) == done


def test_a_deeper_model_begins_with_the_same_logits_and_all_of_it_learns(art, folder):
    source = load_checkpoint(pretraining(folder, art, replace(RECIPE, max_updates=1)).train())
    deeper = deepened(source, encoder_layers=3, decoder_layers=2)
    batch = batch_of(SceneSampler(Split.TRAIN), art, folder)
    objectives = []
    for checkpoint in (source, deeper):
        model = student(checkpoint, RECIPE)
        prompt = checkpoint.tokenizer.encode_prompt(checkpoint.settings.prompt)
        objectives.append(CrossEntropy(model, checkpoint.settings, prompt, RECIPE))
    pixels = batch.normalised()
    with torch.no_grad():
        own, other = (objective.eval().logits(pixels, batch.targets) for objective in objectives)
    torch.testing.assert_close(other, own)

    model = objectives[1].model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the branches' ends first, then what is before them
        optimizer.zero_grad()
        objectives[1].logits(pixels, batch.targets).logsumexp(-1).sum().backward()
        optimizer.step()
    new = [name for name, _ in model.named_parameters() if name not in source.state_dict]
    assert any(name.startswith("encoder.layers.2.") for name in new)
    weights = dict(model.named_parameters())
    assert all(weights[name].grad.any() for name in new if name.endswith(("q_proj.weight", "fc1.weight")))


def test_a_model_is_not_made_shallower(art, folder):
    source = load_checkpoint(pretraining(folder, art, replace(RECIPE, max_updates=1)).train())
    with pytest.raises(RecipeError, match="1 and 1 layers already"):
        deepened(source, encoder_layers=0, decoder_layers=2)


def test_a_mean_is_weight_by_weight_and_keeps_tied_weights_one_tensor(art, folder, tmp_path):
    first = load_checkpoint(pretraining(folder, art, replace(RECIPE, max_updates=1)).train())
    shifted = {name: weight + 1 if weight.is_floating_point() else weight for name, weight in first.state_dict.items()}
    mean = averaged([first, replace(first, state_dict=shifted)])
    for name, weight in mean.state_dict.items():
        own = first.state_dict[name]
        torch.testing.assert_close(weight, own + 0.5 if own.is_floating_point() else own)
    sizes = []
    for name, checkpoint in (("first", first), ("mean", mean)):
        to = tmp_path / name
        save_checkpoint(to, checkpoint.config, checkpoint.state_dict, checkpoint.settings, checkpoint.tokenizer_files)
        sizes.append((to / "pytorch_model.bin").stat().st_size)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_checkpoints_of_two_structures_have_no_mean(art, folder):
    first = load_checkpoint(pretraining(folder, art, replace(RECIPE, max_updates=1)).train())
    with pytest.raises(RecipeError, match="differ in their config"):
        averaged([first, deepened(first, encoder_layers=2, decoder_layers=1)])


def test_the_students_size(tmp_path):
    model = OFA(replace(STUDENT, vocab_size=write_vocabulary(tmp_path)))
    assert 8e6 < sum(weight.numel() for weight in model.parameters()) < 9.5e6


@pytest.mark.parametrize(
    "caption",
    ["two dogs", "an owl above a balloon on a pink background", "a gift to the left of three red apples",
     "a cat in front of a bus on a white background", "a purple heart between a sunflower and a clock"],
)  # fmt: skip
def test_a_scene_has_five_wordings_of_the_same_things(caption):
    texts = references(caption)
    assert texts[0] == caption
    assert len(set(texts)) == 5
    words = {"two", "dogs", "owl", "balloon", "pink", "gift", "three", "red", "apples", "cat", "bus", "white", "heart"}
    for text in texts:
        assert words & set(text.split()) == words & set(caption.split())


def test_scenes_are_written_as_data_for_the_training_commands(art, tmp_path):
    files = SceneFiles(tmp_path, SceneSampler(Split.UNSEEN, 3), art, 6, (64, 80), texts=5)
    table = write_dataset(tmp_path, files)
    assert table == tmp_path / "captions.jsonl"
    captions = [record.captions for record in open_data(tmp_path).records]
    assert captions == [references(SceneSampler(Split.UNSEEN, 3)(number).caption) for number in range(6)]
