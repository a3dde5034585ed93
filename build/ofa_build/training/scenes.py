"""Trains a captioner of emoji scenes from nothing: ``python -m ofa_build.training.scenes RUN``.

A run can be interrupted: it continues from ``RUN/training.pt``, and a change of ``--steps`` or ``--image-size`` takes
effect there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from ofa_build.model import OFA, OFAConfig
from ofa_build.scenes.art import Art
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import CaptionTokenizer, write_vocabulary
from ofa_build.training.evaluation import exact_match
from ofa_build.training.objective import SceneObjective
from ofa_build.training.scene_data import SceneBatch, SceneDataset, stream

logger = logging.getLogger(__name__)


def small_config(vocab_size: int) -> OFAConfig:
    """Describe a model of about nine million parameters: below 20 MB in fp16."""
    return OFAConfig(
        vocab_size=vocab_size,
        d_model=192,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        resnet_type="resnet18",
        image_bucket_size=16,
        max_position_embeddings=1024,
        dropout=0.0,
    )


@dataclass(frozen=True)
class Recipe:
    """How a run trains; the defaults made the bundled checkpoint. A rate and a smoothing are per step and token."""

    steps: int = 5400
    collage_steps: int = 1000  # the first, which train the image encoder alone
    batch_size: int = 32
    image_size: int = 96  # pixels a side
    learning_rate: float = 1e-3  # the highest
    warm_up: int = 300  # steps
    weight_decay: float = 0.02
    label_smoothing: float = 0.03
    seed: int = 0
    save_minutes: float = 4.0
    evaluate_minutes: float = 15.0
    evaluation_scenes: int = 128  # on the way
    final_scenes: int = 500

    def learning_rate_at(self, step: int) -> float:
        """Rise linearly, then fall along half a cosine to nothing at the last step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = min(1.0, (step - self.warm_up) / max(1, self.steps - self.warm_up))
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class SceneTraining:
    """The state of one run and its loop."""

    def __init__(self, directory: Path, recipe: Recipe, art: Art) -> None:
        """Start in ``directory``, with the ``config.json`` and vocabulary it may hold, or continue what began there."""
        self.directory, self.recipe, self.art = directory, recipe, art
        if not (directory / "vocab.json").exists():
            config = small_config(write_vocabulary(directory))
            (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=1), encoding="utf-8")
        self.tokenizer = CaptionTokenizer(directory)
        torch.manual_seed(recipe.seed)
        config = OFAConfig.from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
        self.model = OFA(config).to(memory_format=torch.channels_last)
        self.objective = SceneObjective(self.model, self.tokenizer.prompt(), recipe.label_smoothing)
        self.optimizer = self._optimizer()
        self.step = 0
        self._resume()

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay on matrices and convolutions only."""
        decayed = [weight for weight in self.objective.parameters() if weight.dim() > 1]
        others = [weight for weight in self.objective.parameters() if weight.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    @property
    def _state_path(self) -> Path:
        return self.directory / "training.pt"

    def _resume(self) -> None:
        if not self._state_path.exists():
            return
        state = torch.load(self._state_path, weights_only=True)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        logger.info("continuing at step %d", self.step)

    def save(self) -> None:
        """Write everything a continued run needs, whole or not at all."""
        partial = self._state_path.with_suffix(".partial")
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, partial)
        partial.replace(self._state_path)

    def batches(self, sampler: SceneSampler | CollageSampler, first: int, last: int) -> Iterator[SceneBatch]:
        """Draw batches number ``first`` to ``last`` (not included) of a sampler's scenes."""
        dataset = SceneDataset(sampler, self.art, self.tokenizer, self.recipe.image_size)
        return iter(stream(dataset, self.recipe.batch_size, first, last))

    def _training_batches(self) -> Iterator[SceneBatch]:
        """Chain the collages that come first and the scenes that follow, from the current step on."""
        seed, steps = self.recipe.seed, self.recipe.steps
        collages = min(self.recipe.collage_steps, steps)
        if self.step < collages:
            yield from self.batches(CollageSampler(seed), self.step, collages)
        yield from self.batches(SceneSampler(Split.TRAIN, seed), self.step, steps)

    def evaluate(self, scenes: int) -> None:
        """Log the exact matches on scenes of both held-out kinds."""
        for split in (Split.UNSEEN, Split.HELDOUT):
            last = math.ceil(scenes / self.recipe.batch_size)
            drawn = self.batches(SceneSampler(split, self.recipe.seed), 0, last)
            share, wrong = exact_match(self.model, drawn, self.tokenizer)
            logger.info("step %d: %s exact %.1f %%", self.step, split.name.lower(), 100 * share)
            for wanted, given in wrong[:4]:
                logger.info("  wanted '%s', said '%s'", wanted, given)

    def train(self) -> None:
        """Run to the last step, saving and evaluating on the way, and saving when told to stop."""
        try:
            self._run()
        finally:
            self.save()
        self.evaluate(self.recipe.final_scenes)

    def _run(self) -> None:
        saved = evaluated = reported = time.monotonic()
        self.objective.train()
        for batch in self._training_batches():
            parts = self._update(batch)
            self.step += 1
            now = time.monotonic()
            if self.step % 50 == 0:
                rate = 50 * self.recipe.batch_size / (now - reported)
                logger.info("step %d: caption %.3f classes %.3f centres %.3f, %.1f scenes/s", self.step, *parts, rate)
                reported = now
            if now - saved > 60 * self.recipe.save_minutes:
                self.save()
                saved = now
            if now - evaluated > 60 * self.recipe.evaluate_minutes:
                self.evaluate(self.recipe.evaluation_scenes)
                evaluated = reported = time.monotonic()

    def _update(self, batch: SceneBatch) -> tuple[float, float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.objective(batch)
        self.optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        return losses.caption.item(), losses.classes.item(), losses.centres.item()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the run's state and vocabulary are kept")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(arguments.pop("threads"))
    directory = arguments.pop("directory")
    SceneTraining(directory, Recipe(**arguments), Art.load(TRAINING_STYLES)).train()


if __name__ == "__main__":
    main()
