"""A run of six updates, and what tests do to it."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from captioned import EXAMPLES
from ofa_build.data.sources import DataOptions
from ofa_build.training.finetuning import finetune
from ofa_build.training.hooks import Hook
from ofa_build.training.recipe import Recipe

pytest.importorskip("accelerate", reason="the train extra is not installed")

RECIPE = Recipe(max_updates=6, batch_size=4, learning_rate=1e-3, warm_up=0.0, save_every=2, log_every=1, workers=0,
                drop_worst_after=2, freeze=())  # fmt: skip
STEADY = replace(RECIPE, dropout=0.0, drop_path=0.0, drop_worst=0.0, freeze=("batch-norm",))
"""Without anything random, and without statistics of a batch."""

IMAGES = DataOptions(images=EXAMPLES / "images")


def train(checkpoint, data, work, recipe=RECIPE, **options):
    return finetune(checkpoint, str(data), work_dir=work, recipe=recipe, data=IMAGES, **options)


def losses(work: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((work / "log.csv").open())]


class At(Hook):
    """Does something after an update."""

    def __init__(self, update, action):
        self.update, self.action = update, action

    def on_update(self, update):
        if update == self.update:
            self.action()
