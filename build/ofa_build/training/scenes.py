"""Pretrains a captioner on emoji scenes, from nothing: ``python -m ofa_build.training.scenes RUN --size student``.

The fine-tuning and distilling commands take what it leaves in ``RUN/last``. A run can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ofa_serving.tokenizer import Tokenizer

from ofa_build.checkpoint import PipelineSettings, save_checkpoint
from ofa_build.evaluation.captioners import TorchCaptioner
from ofa_build.model import OFA, OFAConfig
from ofa_build.scenes.art import Art
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import PROMPT, CaptionTokenizer, write_vocabulary
from ofa_build.training.freezing import freeze, set_training
from ofa_build.training.hooks import CsvLog, PlainLog
from ofa_build.training.loop import Interrupted, Trainer, make_accelerator
from ofa_build.training.objectives import CrossEntropy
from ofa_build.training.recipe import Recipe
from ofa_build.training.scene_data import SceneBatch, SceneDataset, stream
from ofa_build.training.scene_objective import SceneObjective
from ofa_build.training.work_folder import WorkFolder

log = logging.getLogger("ofa-build")

PRETRAINING = Recipe(
    max_updates=5400,
    batch_size=32,
    learning_rate=1e-3,
    warm_up=0.055,
    weight_decay=0.02,
    adam_betas=(0.9, 0.98),
    label_smoothing=0.03,
    drop_worst=0.0,
    dropout=0.0,
    drop_path=0.0,
    freeze=(),
    precision="bf16",
    save_every=200,
    evaluate_every=1000,
)
"""What made the bundled checkpoint."""

COLLAGES = 1000
"""Updates, the first, that train the image encoder alone."""

JUDGED = 500

_STUDENT = OFAConfig(
    d_model=192,
    encoder_layers=2,
    decoder_layers=3,
    encoder_ffn_dim=768,
    decoder_ffn_dim=768,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    resnet_type="resnet18",
    image_bucket_size=16,
    dropout=0.0,
)
SIZES = {
    "student": _STUDENT,
    "teacher": replace(
        _STUDENT, d_model=256, encoder_layers=3, decoder_layers=4, encoder_ffn_dim=1024, decoder_ffn_dim=1024,
        resnet_type="resnet50",
    ),
}  # fmt: skip
"""Nine million parameters, below 20 MB in fp16, and about twenty."""


class SceneBatches:
    """An endless stream: collages first, then scenes."""

    def __init__(
        self, art: Art, tokenizer: CaptionTokenizer, recipe: Recipe, image_size: int, collages: int = COLLAGES
    ) -> None:
        self.art, self.tokenizer, self.recipe, self.image_size = art, tokenizer, recipe, image_size
        self.collages = collages

    def updates(self, first: int, last: int) -> Iterator[list[SceneBatch]]:
        """See :class:`~.loop.BatchSource`."""
        seed = self.recipe.seed
        if first < self.collages:
            yield from self._of(CollageSampler(seed), first, min(self.collages, last))
        yield from self._of(SceneSampler(Split.TRAIN, seed), max(first, self.collages), last)

    def of_split(self, split: Split, scenes: int) -> Iterator[SceneBatch]:
        """Give scenes that training does not show."""
        last = -(-scenes // self.recipe.batch_size)
        return (batch for (batch,) in self._of(SceneSampler(split, self.recipe.seed), 0, last))

    def _of(self, sampler: SceneSampler | CollageSampler, first: int, last: int) -> Iterator[list[SceneBatch]]:
        if first < last:
            dataset = SceneDataset(sampler, self.art, self.tokenizer, self.image_size)
            yield from ([batch] for batch in stream(dataset, self.recipe.batch_size, first, last, self.recipe.workers))


class ScenePretraining:
    """One run in a folder, with the ``config.json`` and vocabulary it may hold.

    Args:
        folder: the run's.
        recipe: the numbers.
        art: the objects' drawings.
        size: the model's, see :data:`SIZES`.
        image_size: pixels a side.
        collages: updates that train the image encoder alone.
        judged: scenes of each kind that an evaluation captions.

    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        art: Art,
        size: str = "student",
        image_size: int = 96,
        collages: int = COLLAGES,
        judged: int = JUDGED,
    ) -> None:
        self.folder, self.recipe, self.image_size, self.judged = folder, recipe, image_size, judged
        if not (folder / "vocab.json").exists():
            vocab_size = write_vocabulary(folder)
            config = replace(SIZES[size], vocab_size=vocab_size)
            (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1), encoding="utf-8")
        self.config = OFAConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self.tokenizer = CaptionTokenizer(folder)
        self.settings = PipelineSettings(prompt=PROMPT, patch_image_size=image_size)
        torch.manual_seed(recipe.seed)
        self.model = OFA(self.config).to(memory_format=torch.channels_last)
        freeze(self.model, recipe.freeze)
        self.objective = SceneObjective(CrossEntropy(self.model, self.settings, self.tokenizer.prompt(), recipe))
        self.batches = SceneBatches(art, self.tokenizer, recipe, image_size, collages)

    def train(self) -> Path:
        """Run to the last update, and give the checkpoint."""
        work = WorkFolder(self.folder)
        work.begin(self.recipe, {"image_size": self.image_size, "collages": self.batches.collages})
        Trainer(
            self.objective,
            self.batches,
            self.recipe.max_updates,
            None,
            self.recipe,
            make_accelerator(self.recipe),
            work,
            self.write,
            lambda: set_training(self.objective, self.recipe.freeze),
            self.evaluate,
            [PlainLog(), CsvLog(self.folder)],
        ).run()
        return work.last

    def write(self, folder: Path) -> None:
        """Write the model without its training head."""
        weights = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        vocabulary = {name: (self.folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
        save_checkpoint(folder, self.config, weights, self.settings, vocabulary)

    def evaluate(self) -> dict[str, float]:
        """Give the percentage of scenes of both kinds that are captioned exactly."""
        self.model.eval()
        captioner = TorchCaptioner(self.model, self.settings, Tokenizer.load(self.folder, "en"))
        return {split.name.lower(): self._exact(captioner, split) for split in (Split.UNSEEN, Split.HELDOUT)}

    def _exact(self, captioner: TorchCaptioner, split: Split) -> float:
        right = []
        for batch in self.batches.of_split(split, self.judged):
            with torch.autocast("cpu", torch.bfloat16):
                given = captioner.captions(batch.pixels.numpy())
            wanted = map(self.tokenizer.text, batch.targets.tolist())
            right += [text == own for text, own in zip(given, wanted, strict=True)]
        return 100 * float(np.mean(right))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the run is kept")
    parser.add_argument("--size", choices=SIZES, default="student")
    parser.add_argument("--image-size", type=int, default=96, help="pixels a side (default %(default)s)")
    parser.add_argument("--updates", type=int, default=PRETRAINING.max_updates, help="default %(default)s")
    parser.add_argument("--collages", type=int, default=COLLAGES, help="updates on collages (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=PRETRAINING.batch_size, help="default %(default)s")
    parser.add_argument("--learning-rate", type=float, default=PRETRAINING.learning_rate, help="default %(default)s")
    parser.add_argument("--judged", type=int, default=JUDGED, help="scenes that an evaluation captions, of each kind")
    parser.add_argument("--seed", type=int, default=PRETRAINING.seed, help="default %(default)s")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = replace(
        PRETRAINING, max_updates=flags.updates, batch_size=flags.batch_size, learning_rate=flags.learning_rate,
        seed=flags.seed,
    )  # fmt: skip
    art = Art.load(TRAINING_STYLES)
    run = ScenePretraining(flags.folder, recipe, art, flags.size, flags.image_size, flags.collages, flags.judged)
    try:
        log.info("pretrained %s", run.train())
    except Interrupted as stopped:
        log.info("%s", stopped)


if __name__ == "__main__":
    main()
