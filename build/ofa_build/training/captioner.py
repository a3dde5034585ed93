"""Trains a run's transformer on what its image encoder sees: ``python -m ofa_build.training.captioner RUN``.

The image encoder is by far the most of a step and is learned first. Here its features of many scenes are computed once,
and the rest of the model learns from them at several times the speed; ``ofa_build.training.scenes`` then continues the
run with both.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa_build.model import OFA
from ofa_build.scenes.art import Art
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import PAD
from ofa_build.training.scene_data import MAX_TOKENS, decoder_inputs
from ofa_build.training.scenes import Recipe, SceneTraining

logger = logging.getLogger(__name__)

FIRST_SCENE = 10_000_000
"""Scenes from here on are those that no joint run reaches."""


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


class CaptionerTraining:
    """The transformer of a run, its optimizer, and the recorded scenes."""

    def __init__(self, run: SceneTraining, scenes: int, first: int) -> None:
        """Record ``scenes`` training scenes from number ``first`` on, a whole number of batches."""
        self.run, self.objective = run, run.objective
        self.size = run.recipe.batch_size
        self.features, self.targets = self._record(first // self.size, scenes // self.size)

    @torch.inference_mode()
    def _record(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Compute features bfloat16 [n, 1024, S/16, S/16] and targets [n, MAX_TOKENS], padded."""
        sampler = SceneSampler(Split.TRAIN, self.run.recipe.seed)
        encoder = self.run.model.encoder.embed_images.eval()
        targets = torch.full((count * self.size, MAX_TOKENS), PAD)
        features = None
        for number, batch in enumerate(self.run.batches(sampler, first, first + count)):
            with torch.autocast("cpu", torch.bfloat16):
                seen = encoder(batch.normalised())
            if features is None:
                features = torch.empty((len(targets), *seen.shape[1:]), dtype=torch.bfloat16)
            rows = slice(number * self.size, (number + 1) * self.size)
            features[rows] = seen
            targets[rows, : batch.targets.shape[1]] = batch.targets
            if number % 200 == 0:
                logger.info("recorded %d of %d scenes", number * self.size, len(targets))
        return features, targets

    def train(self, epochs: float, learning_rate: float, warm_up: int = 100) -> None:
        """Run ``epochs`` over the recorded scenes and put the result into the run's state."""
        steps = int(epochs * len(self.targets) / self.size)
        weights = [weight for name, weight in self.run.model.named_parameters() if "embed_images" not in name]
        optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.run.model.train()
        started = time.monotonic()
        for step, rows in enumerate(self._shuffled(steps)):
            fall = (1 + math.cos(math.pi * step / steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(fall, (step + 1) / warm_up)
            optimizer.zero_grad()
            loss = self._loss(rows)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            if step % 200 == 0:
                rate = (step + 1) * self.size / (time.monotonic() - started)
                logger.info("captioner step %d of %d: caption %.3f, %.1f scenes/s", step, steps, loss.item(), rate)
        self.run.save()

    def _shuffled(self, steps: int) -> Iterator[Tensor]:
        """Yield the scenes of ``steps`` batches, every scene once an epoch."""
        batches: Iterator[Tensor] = iter(())
        for _ in range(steps):
            rows = next(batches, None)
            if rows is None:
                batches = iter(torch.randperm(len(self.targets)).split(self.size))
                rows = next(batches)
            yield rows

    @torch.inference_mode()
    def mean_loss(self, rows: Tensor) -> float:
        """Give the caption loss of recorded scenes."""
        return self._loss(rows).item()

    def _loss(self, rows: Tensor) -> Tensor:
        targets = self.targets[rows]
        targets = targets[:, : int((targets != PAD).sum(1).max())]
        side = self.run.recipe.image_size
        pixels = torch.empty(1).expand(len(rows), 3, side, side)  # only their shape is looked at
        with torch.autocast("cpu", torch.bfloat16), _replaying(self.run.model, self.features[rows]):
            logits = self.run.model(pixels, self.objective.prompt, decoder_inputs(targets))
            return self.objective.caption_loss(logits, targets)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--scenes", type=int, default=48_000)
    parser.add_argument("--first", type=int, default=FIRST_SCENE, help="the first scene's number")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--image-size", type=int, default=Recipe.image_size)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(batch_size=arguments.batch_size, image_size=arguments.image_size)
    run = SceneTraining(arguments.directory, recipe, Art.load(TRAINING_STYLES))
    captioner = CaptionerTraining(run, arguments.scenes, arguments.first)
    captioner.train(arguments.epochs, arguments.learning_rate)
    run.evaluate(recipe.evaluation_scenes)


if __name__ == "__main__":
    main()
