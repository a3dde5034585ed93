"""What a run must not take for its own, and what it must not save."""

import math
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from captioned import NAMES
from ofa_build.checkpoint import CheckpointError, load_checkpoint
from ofa_build.training import average, deeper
from ofa_build.training.finetuning import finetune
from ofa_build.training.loop import Interrupted
from ofa_build.training.recipe import Recipe, RecipeError
from ofa_build.training.teacher import CachedTeacher
from ofa_build.training.work_folder import RunError
from small_run import IMAGES, RECIPE, STEADY, At, train


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_number_of_the_recipe_is_finite(value):
    with pytest.raises(RecipeError, match=f"learning_rate is {value}; it must be a finite number"):
        Recipe(learning_rate=value)


def test_weights_that_the_last_update_broke_are_not_saved(checkpoint, data, tmp_path):
    with pytest.raises(RunError, match="a weight is no number at update 1: lower the learning rate"):
        train(checkpoint, data, tmp_path, replace(STEADY, max_updates=1, learning_rate=1e39, weight_decay=0.0))
    assert not (tmp_path / "state.pt").exists()
    assert not (tmp_path / "last").exists()


def rows(caption):
    return [{"image": name, "caption": f"{caption} {name}"} for name in NAMES]


def test_a_run_is_not_continued_on_other_captions(checkpoint, tmp_path):
    with pytest.raises(Interrupted):
        finetune(checkpoint, rows("one"), rows("one"), tmp_path, recipe=RECIPE, data=IMAGES,
                 hooks=[At(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])  # fmt: skip
    with pytest.raises(RunError, match=r"holds a run with training_data '[0-9a-f]+', not '[0-9a-f]+': name another"):
        finetune(checkpoint, rows("other"), rows("one"), tmp_path, recipe=RECIPE, data=IMAGES)
    with pytest.raises(RunError, match="holds a run with evaluation_data '"):
        finetune(checkpoint, rows("one"), rows("other"), tmp_path, recipe=RECIPE, data=IMAGES)
    fewer = replace(IMAGES, evaluation_images=2)
    with pytest.raises(RunError, match="holds a run with evaluation_data '"):
        finetune(checkpoint, rows("one"), rows("one"), tmp_path, recipe=RECIPE, data=fewer)


def test_a_run_that_is_done_says_so(checkpoint, data, whole, caplog):
    caplog.set_level("INFO")
    train(checkpoint, data, whole)
    assert "all 6 updates were done before" in [record.getMessage() for record in caplog.records]


def test_a_folder_that_cannot_be_made_is_named(checkpoint, data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"the folder .*/file cannot be made: File exists"):
        train(checkpoint, data, tmp_path / "file")
    with pytest.raises(RunError, match=r"the folder .*/file/cache cannot be made: Not a directory"):
        CachedTeacher(None, tmp_path / "file" / "cache")


def test_a_runs_folder_is_not_taken_for_a_checkpoint(whole):
    with pytest.raises(CheckpointError, match="is a training run's folder; its checkpoints are best and last in it"):
        load_checkpoint(whole)
    assert torch.is_tensor(next(iter(load_checkpoint(whole / "best").state_dict.values())))


@pytest.mark.parametrize("module", [average, deeper])
def test_a_checkpoint_that_is_not_there_is_named_without_a_trace(module, monkeypatch, tmp_path):
    arguments = ["nowhere/at/all", str(tmp_path / "to")]
    monkeypatch.setattr(sys, "argv", ["x", *(arguments if module is deeper else arguments[::-1])])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert str(end.value).startswith("there is no checkpoint nowhere/at/all")
