"""Trains a captioner of emoji scenes from nothing: ``python -m ofa_build.training.scenes OUT --steps 6000``.

The run can be interrupted: it continues from ``OUT/training.pt``, and a change of ``--steps`` or ``--image-size`` takes
effect there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ofa_build.model import OFA, OFAConfig
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import CaptionTokenizer, write_vocabulary
from ofa_build.training.evaluation import exact_match
from ofa_build.training.objective import SceneObjective
from ofa_build.training.scene_data import SceneBatch, SceneDataset, batches

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


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 300) -> float:
    """Linear warm-up, then half a cosine down to nothing at ``steps``."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (1 + math.cos(math.pi * progress)) / 2


class SceneTraining:
    """The state of one run and its loop."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.directory = arguments, arguments.directory
        if not (self.directory / "vocab.json").exists():
            self.config = small_config(write_vocabulary(self.directory))
            (self.directory / "config.json").write_text(json.dumps(self.config.to_dict(), indent=1))
        self.config = OFAConfig.from_dict(json.loads((self.directory / "config.json").read_text()))
        self.tokenizer = CaptionTokenizer(self.directory)
        torch.manual_seed(arguments.seed)
        self.model = OFA(self.config).to(memory_format=torch.channels_last)
        self.objective = SceneObjective(self.model, self.tokenizer.prompt(), arguments.label_smoothing)
        self.optimizer = self._optimizer()
        self.step = 0
        self._resume()

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay on matrices and convolutions only."""
        decayed = [weight for weight in self.objective.parameters() if weight.dim() > 1]
        others = [weight for weight in self.objective.parameters() if weight.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
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

    def _batches(self, sampler: SceneSampler | CollageSampler, first: int, last: int) -> Iterator[SceneBatch]:
        augment = isinstance(sampler, SceneSampler) and sampler.split is Split.TRAIN
        dataset = SceneDataset(sampler, self.tokenizer, self.arguments.image_size, augment)
        return iter(batches(dataset, self.arguments.batch_size, first, last))

    def _training_batches(self) -> Iterator[SceneBatch]:
        """Chain the collages that come first and the scenes that follow, from the current step on."""
        seed, steps = self.arguments.seed, self.arguments.steps
        collages = min(self.arguments.collage_steps, steps)
        if self.step < collages:
            yield from self._batches(CollageSampler(seed), self.step, collages)
        yield from self._batches(SceneSampler(Split.TRAIN, seed), self.step, steps)

    def evaluate(self, scenes: int) -> None:
        """Log the exact matches on scenes of both held-out kinds."""
        for split in (Split.UNSEEN, Split.HELDOUT):
            last = math.ceil(scenes / self.arguments.batch_size)
            share, wrong = exact_match(
                self.model, self._batches(SceneSampler(split, self.arguments.seed), 0, last), self.tokenizer
            )
            logger.info("step %d: %s exact %.1f %%", self.step, split.name.lower(), 100 * share)
            for wanted, given in wrong[:4]:
                logger.info("  wanted '%s', said '%s'", wanted, given)

    def train(self) -> None:
        """Run to the last step, saving and evaluating on the way."""
        saved = evaluated = reported = time.monotonic()
        self.objective.train()
        for batch in self._training_batches():
            parts = self._update(batch)
            self.step += 1
            now = time.monotonic()
            if self.step % 50 == 0:
                rate = 50 * self.arguments.batch_size / (now - reported)
                logger.info("step %d: caption %.3f classes %.3f centres %.3f, %.1f scenes/s", self.step, *parts, rate)
                reported = now
            if now - saved > 60 * self.arguments.save_minutes:
                self.save()
                saved = now
            if now - evaluated > 60 * self.arguments.evaluate_minutes:
                self.evaluate(128)
                evaluated = reported = time.monotonic()
        self.save()
        self.evaluate(500)

    def _update(self, batch: SceneBatch) -> tuple[float, float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.arguments.steps, self.arguments.learning_rate)
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
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--collage-steps", type=int, default=1500, help="first, on collages, the image encoder alone")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--label-smoothing", type=float, default=0.03)
    parser.add_argument("--save-minutes", type=float, default=4.0)
    parser.add_argument("--evaluate-minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    SceneTraining(arguments).train()


if __name__ == "__main__":
    main()
