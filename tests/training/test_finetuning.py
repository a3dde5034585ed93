"""A run learns what it is shown, in whatever precision and by however many processes."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from captioned import NAMES, write_jsonl, write_tsv
from ofa_build.checkpoint import load_checkpoint
from ofa_build.cli import main
from ofa_build.data import DataError
from ofa_build.model import OFA
from ofa_build.model.resnet import ResNet
from ofa_build.training.finetuning import finetune
from ofa_build.training.freezing import set_training
from ofa_build.training.hooks import Stopwatch
from ofa_build.training.loop import Interrupted, Trainer
from ofa_build.training.recipe import RecipeError
from ofa_build.training.work_folder import RunError
from small_model import EMOJI, assert_same_weights, weights_of
from small_run import IMAGES, RECIPE, STEADY, At, losses, train
from torch import nn


def test_a_run_learns_captions_by_heart_and_keeps_the_best(tmp_path):
    new = ["three sunflowers above a boat", "a gift in front of an octopus", "a balloon above an owl", "a clock"]
    rows = [{"image": name, "caption": caption} for name, caption in zip(NAMES, new, strict=True)]
    recipe = replace(STEADY, max_updates=24, learning_rate=1e-3, end_learning_rate=5e-4,
                     label_smoothing=0.0, evaluate_every=8, save_every=24)  # fmt: skip
    result = finetune(EMOJI, rows, rows, tmp_path / "run", recipe=recipe, data=IMAGES)
    assert result.scores["exact"] == 100
    assert result.checkpoint == tmp_path / "run" / "best"
    scored = list(csv.DictReader((tmp_path / "run" / "evaluations.csv").open()))
    assert [int(row["update"]) for row in scored] == [8, 16, 24]
    best = max(scored, key=lambda row: float(row["CIDEr"]))
    assert result.scores["CIDEr"] == pytest.approx(float(best["CIDEr"]))
    assert result.checkpoint.resolve().name == f"update-{int(best['update']):08d}"
    assert (tmp_path / "run" / "tensorboard").is_dir()


def test_a_checkpoint_keeps_the_structure_it_came_with(checkpoint, whole):
    assert load_checkpoint(whole / "last").config == load_checkpoint(checkpoint).config
    assert load_checkpoint(whole / "last").settings == load_checkpoint(checkpoint).settings


def test_a_loss_that_is_no_number_ends_the_run(checkpoint, data, tmp_path):
    with pytest.raises(RunError, match=r"no number at update .*: lower the learning rate"):
        train(checkpoint, data, tmp_path, replace(RECIPE, learning_rate=1e30, clip_norm=0.0))


@pytest.fixture(scope="module")
def steady(checkpoint, data, tmp_path_factory):
    """The losses of a run without anything random."""
    work = tmp_path_factory.mktemp("steady")
    train(checkpoint, data, work, STEADY)
    return losses(work)


def test_accumulated_batches_are_one_large_batch(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, batch_size=1, accumulation=4))
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-4)


def test_two_processes_give_the_single_ones_loss_curve(checkpoint, data, tmp_path, steady):
    flags = ["--batch-size=2", "--max-updates=6", "--learning-rate=1e-3", "--warm-up=0", "--log-every=1", "--workers=0"]
    flags += ["--drop-worst=0", "--dropout=0", "--drop-path=0", "--freeze", "batch-norm"]
    command = ["finetune", str(checkpoint), "--train", str(data), "--images", str(IMAGES.images)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = [*torchrun, "-m", "ofa_build.cli", *command, *flags, "--work", str(tmp_path)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-3)


def test_recomputed_gradients_are_the_kept_ones(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, gradient_checkpointing=True))
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-6)


def test_bfloat16_learns_nearly_the_same(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, precision="bf16"))
    assert losses(tmp_path) == pytest.approx(steady, rel=0.02)
    assert losses(tmp_path) != steady


def test_half_precision_needs_a_gpu(checkpoint, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        train(checkpoint, data, tmp_path, replace(RECIPE, precision="fp16"))


def test_the_first_block_of_a_stage_is_never_dropped():
    """As in OFA's ResNet, whose first blocks have no drop-path at all."""
    backbone = ResNet((3, 4, 6), drop_path=0.3)
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        rates = [block.drop_path.rate for block in stage]
        assert rates == pytest.approx([0.3 * number / (len(stage) - 1) for number in range(len(stage))])


FROZEN = {
    "embeddings": lambda name: "embed_tokens" in name or "output_projection" in name,
    "resnet": lambda name: "embed_images" in name,
    "stem": lambda name: any(f"embed_images.{part}." in name for part in ("conv1", "bn1", "layer1")),
    "batch-norm": lambda name: "embed_images" in name and (".bn" in name or "downsample.1" in name),
}


@pytest.mark.parametrize("part", FROZEN)
def test_what_is_frozen_stays_as_it_was_and_the_rest_learns(checkpoint, data, tmp_path, part):
    train(checkpoint, data, tmp_path, replace(RECIPE, freeze=(part,), max_updates=2, learning_rate=1e-2))
    before, after = weights_of(checkpoint), weights_of(tmp_path / "last")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    unused = ("embed_image_positions", "image_pos_ln", "image_rel_pos_table_list", "code_layernorm_embedding")
    assert not [name for name in changed if FROZEN[part](name)]
    assert not [name for name in changed if name.startswith("decoder.") and any(word in name for word in unused)]
    assert any("fc1" in name for name in changed)
    assert any("embed_images" in name for name in changed) == (part != "resnet")


def test_what_is_frozen_keeps_its_statistics_over_several_gpus(checkpoint):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(OFA(load_checkpoint(checkpoint).config))
    images = model.encoder.embed_images
    for part, kept in (("resnet", images), ("batch-norm", images), ("stem", images.layer1)):
        set_training(model, (part,))
        norms = [module for module in kept.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert norms
        assert not any(norm.training for norm in norms)
    assert images.layer2[0].bn1.training


def test_a_batch_of_nothing_does_not_touch_the_statistics(checkpoint, tmp_path):
    """One process leaves out a batch of which no image could be read; the rest of the update is learned from."""
    bad = [{"image": str(tmp_path / f"{number}.png"), "caption": "none"} for number in range(3)]
    rows = [{"image": NAMES[0], "caption": "a boat"}, *bad]
    recipe = replace(STEADY, freeze=(), batch_size=1, accumulation=4, max_updates=1)
    finetune(checkpoint, rows, work_dir=tmp_path / "some", recipe=recipe, data=IMAGES)
    finetune(checkpoint, rows[:1], work_dir=tmp_path / "one", recipe=recipe, data=IMAGES)
    assert_same_weights(tmp_path / "some" / "last", tmp_path / "one" / "last")


def test_a_stream_is_trained_on_and_continued(checkpoint, tmp_path):
    source = str(write_tsv(tmp_path))
    stream = replace(IMAGES, streaming=True)
    finetune(checkpoint, source, work_dir=tmp_path / "whole", recipe=RECIPE, data=stream)
    with pytest.raises(Interrupted):
        stop = At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream, hooks=[stop])
    finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream)
    assert_same_weights(tmp_path / "part" / "last", tmp_path / "whole" / "last")
    recorded = tmp_path / "part" / "recipe.json"
    recorded.write_text(recorded.read_text().replace('"stream_order": 2,', ""))  # as an earlier version left it
    with pytest.raises(RunError, match="holds a run with stream_order 1, not 2"):
        finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream)
    with pytest.raises(RecipeError, match="a stream has no epochs"):
        finetune(checkpoint, source, work_dir=tmp_path / "x", recipe=replace(RECIPE, max_updates=None), data=stream)


def test_the_command_is_the_call(checkpoint, data, tmp_path, whole):
    flags = ["--max-updates=6", "--batch-size=4", "--learning-rate=1e-3", "--warm-up=0", "--workers=0", "--freeze"]
    run = ["finetune", str(checkpoint), "--train", str(data), "--images", str(IMAGES.images), "--work", str(tmp_path)]
    assert main([*run, *flags, "--drop-worst-after=2", "--save-every=2", "--log-every=1"]) == 0
    assert losses(tmp_path) == losses(whole)
    assert_same_weights(tmp_path / "last", whole / "last")


def test_too_many_bad_images_stop_the_run(checkpoint, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(write_jsonl(tmp_path).read_text() + json.dumps({"image": str(path), "caption": "no image"}))
    strict = replace(IMAGES, max_bad=0)
    with pytest.raises(DataError, match=r"more than 0 records are bad: .*bad.jsonl \(UNSUPPORTED_FORMAT"):
        finetune(checkpoint, str(path), work_dir=tmp_path / "run", recipe=RECIPE, data=strict)


def test_the_log_tells_the_mean_of_the_gradients_norms_that_are_numbers():
    told = []
    trainer = object.__new__(Trainer)
    trainer._sums, trainer.update, trainer.updates, trainer.updates_per_epoch = defaultdict(float), 2, 4, None
    trainer.accelerator = SimpleNamespace(reduce=lambda values: values)
    trainer._optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    trainer._tell = lambda _event, progress: told.append(dict(progress.means))
    for norms in ([math.inf], [math.inf, 2.0, 4.0]):
        for norm in norms:
            trainer._remember({"loss": torch.tensor(1.0)}, torch.tensor(norm))
        trainer._report(Stopwatch())
    assert [list(means) for means in told] == [["loss", "gradient_norm"]] * 2
    assert math.isnan(told[0]["gradient_norm"])
    assert told[1] == {"loss": 1.0, "gradient_norm": 3.0}
