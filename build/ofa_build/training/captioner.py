"""Trains a transformer on what an image encoder sees: ``python -m ofa_build.training.captioner CHECKPOINT RUN``.

The image encoder is the most of a step and is learned first. Here its features of many scenes are computed once, and
the transformer learns from them at several times the speed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from ofa_serving.tokenizer import Tokenizer
from torch import Tensor, nn

from ofa_build.checkpoint import load_checkpoint, save_checkpoint
from ofa_build.model import OFA
from ofa_build.scenes.art import Art
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.training.freezing import set_training
from ofa_build.training.hooks import CsvLog, PlainLog
from ofa_build.training.image_encoder import PRETRAINING
from ofa_build.training.loop import Interrupted, Trainer, make_accelerator
from ofa_build.training.objectives import CrossEntropy, Terms
from ofa_build.training.recipe import PRECISIONS, Recipe
from ofa_build.training.run import student
from ofa_build.training.scene_data import MAX_TOKENS, SceneDataset, stream
from ofa_build.training.work_folder import WorkFolder

log = logging.getLogger("ofa-build")

FIRST_SCENE = 10_000_000
"""Scenes from here on are those that no pretraining reaches."""

CAPTIONER = replace(
    PRETRAINING, epochs=5, max_updates=None, batch_size=48, learning_rate=1.2e-3, warm_up=0.02, weight_decay=0.01,
    freeze=("resnet",),
)  # fmt: skip


@dataclass(frozen=True)
class RecordedBatch:
    """``features`` [B, 1024, S/16, S/16] of pictures, and ``targets`` [B, T], padded."""

    features: Tensor
    targets: Tensor

    @property
    def images(self) -> int:
        """How many pictures there are."""
        return len(self.targets)

    def to(self, device: torch.device) -> RecordedBatch:
        """Move the tensors."""
        return RecordedBatch(self.features.to(device), self.targets.to(device))


class RecordedScenes:
    """Scenes as a checkpoint's image encoder sees them; they are recorded when the first of them is wanted."""

    def __init__(
        self,
        model: OFA,
        tokenizer: Tokenizer,
        art: Art,
        recipe: Recipe,
        image_size: int,
        first: int,
        scenes: int,
    ) -> None:
        """Take ``scenes`` training scenes, a whole number of batches, from number ``first`` on."""
        self._recipe, self._model, self._first, self._pad = recipe, model, first, tokenizer.special.pad
        self._dataset = SceneDataset(SceneSampler(Split.TRAIN, recipe.seed), art, tokenizer, image_size)
        self.updates_per_epoch = scenes // recipe.batch_size
        """Updates that see every scene once."""

    @cached_property
    def _recorded(self) -> tuple[Tensor, Tensor]:
        """Features [N, 1024, S/16, S/16], in half the memory, and targets [N, T], padded."""
        size, encoder = self._recipe.batch_size, self._model.encoder.embed_images.eval()
        scenes, first = self.updates_per_epoch * size, self._first // size
        features, targets = [], torch.full((scenes, MAX_TOKENS), self._pad)
        batches = stream(self._dataset, size, first, first + self.updates_per_epoch, self._recipe.workers)
        for number, batch in enumerate(batches):
            with torch.inference_mode(), torch.autocast("cpu", enabled=self._recipe.precision == "bf16"):
                features.append(encoder(batch.normalised()).bfloat16())
            targets[number * size : (number + 1) * size, : batch.targets.shape[1]] = batch.targets
            if number % 200 == 0:
                log.info("recorded %d of %d scenes", number * size, scenes)
        return torch.cat(features), targets

    def updates(self, first: int, last: int) -> Iterator[list[RecordedBatch]]:
        """See :class:`~.loop.BatchSource`."""
        for update in range(first, last):
            features, targets = self._recorded
            epoch, place = divmod(update, self.updates_per_epoch)
            order = torch.Generator().manual_seed(self._recipe.seed + epoch)
            rows = torch.randperm(len(targets), generator=order).split(self._recipe.batch_size)[place]
            longest = int((targets[rows] != self._pad).sum(1).max())
            yield [RecordedBatch(features[rows].float(), targets[rows, :longest])]


class Captioner(nn.Module):
    """The transformer behind an image encoder that is not run."""

    def __init__(self, captions: CrossEntropy) -> None:
        super().__init__()
        self.captions = captions

    def units(self, batch: RecordedBatch, update: int) -> Mapping[str, float]:
        """See :class:`~.objectives.Objective`."""
        return self.captions.units(batch, update)

    def forward(self, batch: RecordedBatch, update: int) -> Terms:
        """See :class:`~.objectives.Objective`."""
        captions = self.captions
        side = captions.settings.patch_image_size
        pixels = torch.empty(1).expand(batch.images, 3, side, side)  # only their shape is looked at
        with _replaying(captions.model, batch.features):
            logits = captions.logits(pixels, batch.targets)
        return captions.terms(logits, batch.targets, update)


class _Replay(nn.Module):
    """Stands for the image encoder: whatever the pixels, it gives the features it was made with."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self._features = features

    def forward(self, _pixels: Tensor) -> Tensor:
        return self._features


@contextmanager
def _replaying(model: OFA, features: Tensor) -> Iterator[None]:
    """Let the model see ``features`` in place of its image encoder's."""
    image_encoder = model.encoder.embed_images
    model.encoder.embed_images = _Replay(features)
    try:
        yield
    finally:
        model.encoder.embed_images = image_encoder


def train_captioner(
    source: Path,
    folder: Path,
    recipe: Recipe,
    art: Art,
    scenes: int,
    first: int = FIRST_SCENE,
) -> Path:
    """Train the checkpoint ``source`` in the run's ``folder``, and give the new one.

    Args:
        source: the checkpoint.
        folder: the run's.
        recipe: the numbers.
        art: the objects' drawings.
        scenes: how many to record.
        first: the first scene's number.

    """
    checkpoint = load_checkpoint(source)
    model = student(checkpoint, recipe)
    settings, tokenizer = checkpoint.settings, checkpoint.tokenizer
    recorded = RecordedScenes(model, tokenizer, art, recipe, settings.patch_image_size, first, scenes)
    prompt = tokenizer.encode_prompt(settings.prompt, settings.max_src_length)
    objective = Captioner(CrossEntropy(model, settings, prompt, recipe))
    work = WorkFolder(folder)
    work.begin(recipe, {"checkpoint": checkpoint.sha256, "scenes": scenes, "first": first})

    def write(to: Path) -> None:
        save_checkpoint(to, checkpoint.config, model.state_dict(), settings, checkpoint.tokenizer_files)

    Trainer(
        objective,
        recorded,
        max(1, round(recipe.epochs * recorded.updates_per_epoch)),
        recorded.updates_per_epoch,
        recipe,
        make_accelerator(recipe),
        work,
        write,
        lambda: set_training(objective, recipe.freeze),
        hooks=[PlainLog(), CsvLog(folder)],
    ).run()
    return work.last


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the checkpoint, as pretraining left it")
    parser.add_argument("folder", type=Path, help="where the run is kept")
    parser.add_argument("--scenes", type=int, default=64_000)
    parser.add_argument("--first", type=int, default=FIRST_SCENE, help="the first scene's number")
    parser.add_argument("--epochs", type=float, default=CAPTIONER.epochs)
    parser.add_argument("--learning-rate", type=float, default=CAPTIONER.learning_rate)
    parser.add_argument("--precision", choices=PRECISIONS, default=CAPTIONER.precision, help="default %(default)s")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = replace(CAPTIONER, epochs=flags.epochs, learning_rate=flags.learning_rate, precision=flags.precision)
    art = Art.load(TRAINING_STYLES)
    try:
        to = train_captioner(flags.source, flags.folder, recipe, art, flags.scenes, flags.first)
        log.info("trained %s", to)
    except Interrupted as stopped:
        log.info("%s", stopped)
        sys.exit(128 + stopped.signal_number)


if __name__ == "__main__":
    main()
