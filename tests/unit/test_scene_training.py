"""Training on scenes: what is learned from, that a run continues where it stopped, and what it leaves behind."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.model import OFA
from ofa_build.scenes.art import Art
from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import BOS, EOS, PAD, CaptionTokenizer, write_vocabulary
from ofa_build.training.captioner import CaptionerTraining
from ofa_build.training.objective import SceneObjective
from ofa_build.training.packaging import package
from ofa_build.training.scene_data import SceneDataset, collate, decoder_inputs
from ofa_build.training.scenes import Recipe, SceneTraining, small_config

RECIPE = Recipe(steps=3, collage_steps=1, batch_size=4, image_size=64, warm_up=2, evaluation_scenes=4, final_scenes=4)


@pytest.fixture(scope="module")
def art() -> Art:
    """Every training style draws an object as a square of a colour of its own."""
    colours = np.random.default_rng(0).integers(256, size=(len(OBJECTS), 1, 1, 3), dtype=np.uint8)
    glyphs = np.full((len(OBJECTS), 160, 160, 4), 255, dtype=np.uint8)
    glyphs[..., :3] = colours
    return Art(dict.fromkeys(("noto", "fluent", "twemoji"), glyphs))


@pytest.fixture
def run(tmp_path):
    """A run's folder with a tiny model's configuration in it."""
    config = replace(
        small_config(write_vocabulary(tmp_path)),
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_layers=1,
        decoder_layers=1,
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return tmp_path


def batch_of(sampler, art, run):
    dataset = SceneDataset(sampler, art, CaptionTokenizer(run), image_size=64)
    return collate([dataset[index] for index in range(4)])


def weights(training: SceneTraining) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.objective.state_dict().items()}


def test_the_decoder_is_fed_the_caption_behind_the_start(art, run):
    batch = batch_of(SceneSampler(Split.TRAIN), art, run)
    assert batch.pixels.shape == (4, 64, 64, 3)
    assert batch.classes.shape == batch.centres.shape == (4, 4, 4)
    assert (decoder_inputs(batch.targets)[:, 0] == BOS).all()
    assert torch.equal(decoder_inputs(batch.targets)[:, 1:], batch.targets[:, :-1])
    for target in batch.targets:
        assert (target == EOS).sum() == 1
        assert (target[target.tolist().index(EOS) + 1 :] == PAD).all()


def test_pixels_reach_the_model_as_the_server_normalises_them(art, run):
    batch = batch_of(SceneSampler(Split.TRAIN), art, run)
    expected = (batch.pixels.numpy().transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(batch.normalised().numpy(), expected, atol=1e-6)


def test_collages_train_the_image_encoder_alone(art, run):
    training = SceneTraining(run, RECIPE, art)
    training.objective(batch_of(CollageSampler(), art, run)).total.backward()
    taught = {name for name, weight in training.model.named_parameters() if weight.grad is not None}
    assert taught
    assert all(name.startswith("encoder.embed_images.") for name in taught)


def test_a_batch_is_learned(art, run):
    training = SceneTraining(run, RECIPE, art)
    batch = batch_of(SceneSampler(Split.TRAIN), art, run)
    optimizer = torch.optim.AdamW(training.objective.parameters(), lr=2e-3)
    first = last = training.objective(batch).total
    for _ in range(15):
        optimizer.zero_grad()
        last = training.objective(batch).total
        last.backward()
        optimizer.step()
    assert last.item() < 0.6 * first.item()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(art, run):
    whole = SceneTraining(run, RECIPE, art)
    for batch in whole._training_batches():
        whole._update(batch)
        whole.step += 1
        if whole.step == 2:  # between the collages and the end
            whole.save()
    continued = SceneTraining(run, RECIPE, art)
    assert continued.step == 2
    continued.train()
    assert continued.step == RECIPE.steps
    for (name, one), other in zip(weights(whole).items(), weights(continued).values(), strict=True):
        assert torch.equal(one, other), name


def test_the_captioner_learns_from_recorded_features_and_leaves_the_image_encoder_alone(art, run):
    training = SceneTraining(run, RECIPE, art)
    before = weights(training)
    captioner = CaptionerTraining(training, scenes=8, first=0)
    rows = torch.arange(8)
    first = captioner.mean_loss(rows)
    captioner.train(epochs=10, learning_rate=5e-3, warm_up=2)
    assert captioner.mean_loss(rows) < 0.8 * first
    after = weights(SceneTraining(run, RECIPE, art))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any("embed_images" in name or name.startswith("head") for name in changed)


def test_the_learning_rate_rises_then_falls_to_nothing():
    recipe = Recipe(steps=100, warm_up=10, learning_rate=1.0)
    rates = [recipe.learning_rate_at(step) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(one >= other for one, other in pairwise(rates[9:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)


def test_a_run_is_packaged_without_its_training_head(art, run, tmp_path):
    training = SceneTraining(run, RECIPE, art)
    training.save()
    package(run, tmp_path / "checkpoint", RECIPE.image_size)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.settings.patch_image_size == RECIPE.image_size
    model = OFA(checkpoint.config)
    model.load_state_dict(dict(checkpoint.state_dict))
    for name, weight in training.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight.float(), atol=1e-3, rtol=1e-3, check_dtype=False)


def test_the_bundled_model_fits_twenty_megabytes(tmp_path):
    model = OFA(small_config(write_vocabulary(tmp_path)))
    assert sum(weight.numel() for weight in model.parameters()) * 2 < 19e6
    assert SceneObjective(model, [BOS, EOS], 0.0).head.out_channels == len(OBJECTS) + 2
