"""Pretrains an image encoder on emoji scenes, from nothing: ``python -m ofa_build.training.image_encoder RUN``.

A randomly initialised ResNet learns from captions alone only slowly; told what stands where, it learns in minutes.
``ofa_build.training.captioner`` takes what this leaves in ``RUN/last``. A run can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from ofa_serving.tokenizer import Tokenizer
from torch import nn
from torch.nn import functional

from ofa_build.checkpoint import PipelineSettings, save_checkpoint
from ofa_build.model import OFA, OFAConfig
from ofa_build.model.resnet import OUTPUT_CHANNELS
from ofa_build.scenes.art import Art
from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.render import IGNORED
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.scenes.vocabulary import write_vocabulary
from ofa_build.training.hooks import CsvLog, PlainLog
from ofa_build.training.loop import Interrupted, Trainer, make_accelerator
from ofa_build.training.objectives import Term, Terms
from ofa_build.training.recipe import PRECISIONS, Recipe
from ofa_build.training.scene_data import SceneBatch, SceneDataset, stream
from ofa_build.training.work_folder import WorkFolder

log = logging.getLogger("ofa-build")

PRETRAINING = Recipe(
    max_updates=6400,
    batch_size=32,
    learning_rate=1e-3,
    warm_up=0.05,
    weight_decay=0.02,
    adam_betas=(0.9, 0.98),
    label_smoothing=0.03,
    drop_worst=0.0,
    dropout=0.0,
    drop_path=0.0,
    freeze=(),
    save_every=200,
    workers=1,
)

STUDENT = OFAConfig(
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
"""The bundled checkpoint's structure: nine million parameters, below 20 MB in fp16."""

NOTHING_WEIGHT = 0.25
"""Most patches show only background and are soon told apart; the objects count for more."""
CENTRE_WEIGHT = 8.0
"""Few patches hold a centre; each counts for about as many as do not."""


class WhatIsWhere(nn.Module):
    """An image encoder with a throw-away head that names each patch's object and finds the objects' centres."""

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.head = nn.Conv2d(OUTPUT_CHANNELS, len(OBJECTS) + 2, 1)
        weights = torch.ones(len(OBJECTS) + 1)
        weights[0] = NOTHING_WEIGHT
        self.register_buffer("class_weights", weights, persistent=False)

    def units(self, batch: SceneBatch, _update: int) -> Mapping[str, float]:
        """See :class:`~.objectives.Objective`."""
        return {"token": 0, "image": batch.images}

    def forward(self, batch: SceneBatch, _update: int) -> Terms:
        """See :class:`~.objectives.Objective`."""
        seen, images = self.head(self.image_encoder(batch.normalised())).float(), batch.images
        classes = functional.cross_entropy(seen[:, :-1], batch.classes, self.class_weights, ignore_index=IGNORED)
        weight = torch.tensor(CENTRE_WEIGHT, device=seen.device)
        centres = functional.binary_cross_entropy_with_logits(seen[:, -1], batch.centres, pos_weight=weight)
        return {"classes": Term(classes * images, "image"), "centres": Term(centres * images, "image")}


class Pictures:
    """An endless stream of batches, by turns of collages, which are crowded, and of scenes."""

    def __init__(self, art: Art, tokenizer: Tokenizer, recipe: Recipe, image_size: int) -> None:
        samplers = CollageSampler(recipe.seed), SceneSampler(Split.TRAIN, recipe.seed)
        self.recipe = recipe
        self.datasets = [SceneDataset(sampler, art, tokenizer, image_size) for sampler in samplers]

    def updates(self, first: int, last: int) -> Iterator[list[SceneBatch]]:
        """See :class:`~.loop.BatchSource`."""
        kinds = len(self.datasets)
        streams = []
        for kind, dataset in enumerate(self.datasets):
            begin, end = (-(-(update - kind) // kinds) for update in (first, last))
            streams.append(iter(stream(dataset, self.recipe.batch_size, begin, end, self.recipe.workers)))
        for update in range(first, last):
            yield [next(streams[update % kinds])]


class ImageEncoderRun:
    """One run in a folder, with the ``config.json`` and vocabulary it may hold.

    Args:
        folder: the run's.
        recipe: the numbers.
        art: the objects' drawings.
        image_size: pixels a side.

    """

    def __init__(self, folder: Path, recipe: Recipe, art: Art, image_size: int = 96) -> None:
        self.folder, self.recipe, self.image_size = folder, recipe, image_size
        if not (folder / "vocab.json").exists():
            config = replace(STUDENT, vocab_size=write_vocabulary(folder))
            (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1), encoding="utf-8")
        self.config = OFAConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self.settings = PipelineSettings(patch_image_size=image_size)
        torch.manual_seed(recipe.seed)
        self.model = OFA(self.config).to(memory_format=torch.channels_last)
        self.objective = WhatIsWhere(self.model.encoder.embed_images)
        self.pictures = Pictures(art, Tokenizer.load(folder, self.settings.language), recipe, image_size)

    def train(self) -> Path:
        """Run to the last update, and give the checkpoint, whose transformer has learned nothing yet."""
        work = WorkFolder(self.folder)
        work.begin(self.recipe, {"image_size": self.image_size})
        Trainer(
            self.objective,
            self.pictures,
            self.recipe.max_updates,
            None,
            self.recipe,
            make_accelerator(self.recipe),
            work,
            self.write,
            self.objective.train,
            hooks=[PlainLog(), CsvLog(self.folder)],
        ).run()
        return work.last

    def write(self, folder: Path) -> None:
        """Write the model without the training head."""
        vocabulary = {name: (self.folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
        save_checkpoint(folder, self.config, self.model.state_dict(), self.settings, vocabulary)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the run is kept")
    parser.add_argument("--image-size", type=int, default=96, help="pixels a side (default %(default)s)")
    parser.add_argument("--updates", type=int, default=PRETRAINING.max_updates, help="default %(default)s")
    parser.add_argument("--batch-size", type=int, default=PRETRAINING.batch_size, help="default %(default)s")
    parser.add_argument("--learning-rate", type=float, default=PRETRAINING.learning_rate, help="default %(default)s")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRETRAINING.precision, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=PRETRAINING.seed, help="default %(default)s")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = replace(
        PRETRAINING, max_updates=flags.updates, batch_size=flags.batch_size, learning_rate=flags.learning_rate,
        precision=flags.precision, seed=flags.seed,
    )  # fmt: skip
    try:
        log.info(
            "pretrained %s", ImageEncoderRun(flags.folder, recipe, Art.load(TRAINING_STYLES), flags.image_size).train()
        )
    except Interrupted as stopped:
        log.info("%s", stopped)
        sys.exit(128 + stopped.signal_number)


if __name__ == "__main__":
    main()
