"""What fine-tuning and distilling have in common: a student, its data, its evaluation, and the loop around them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..data import DataError, open_data
from ..data.batches import STREAM_ORDER, Batches, Encoding, Share
from ..data.sources import CaptionData, CaptionStream, DataOptions, Rows
from ..evaluation.captioners import TorchCaptioner
from ..evaluation.metrics import cider, is_exact
from ..model import OFA
from .freezing import checkpoint_gradients, freeze, set_training
from .hooks import CsvLog, Hook, PlainLog, ProgressBar, TensorBoardLog
from .loop import Trainer, make_accelerator
from .recipe import Recipe, RecipeError
from .work_folder import WorkFolder

log = logging.getLogger("ofa-build")

Source = str | Path | Rows


@dataclass(frozen=True)
class Result:
    """What a run leaves: the best checkpoint, or the last where nothing was evaluated, and its scores."""

    checkpoint: Path
    updates: int
    scores: Mapping[str, float] = field(default_factory=dict)


class CaptionRun:
    """One checkpoint that learns from captioned images.

    Args:
        checkpoint: a directory, a ``.pt`` file or a hub's name.
        train: the training data.
        evaluation: captioned images that decide which checkpoint is best; None keeps the last.
        work_dir: the run's folder; a run that is found in it is continued.
        recipe: the numbers.
        options: how the data is read.

    Raises:
        CheckpointError, DataError, RecipeError, RunError: in one sentence, before anything is learned.

    """

    def __init__(
        self,
        checkpoint: str | Path,
        train: Source,
        evaluation: Source | None,
        work_dir: str | Path,
        recipe: Recipe,
        options: DataOptions,
    ) -> None:
        torch.manual_seed(recipe.seed)  # of whatever an objective adds to the checkpoint's weights
        self.recipe, self.work = recipe, WorkFolder(Path(work_dir))
        self.accelerator = make_accelerator(recipe)
        self.checkpoint: Checkpoint = load_checkpoint(checkpoint)
        self.tokenizer = self.checkpoint.tokenizer
        self.data = _open(train, options, options.streaming)
        self.evaluation = None if evaluation is None else _open(evaluation, options, streaming=False)
        if isinstance(self.evaluation, CaptionStream):
            raise DataError("the evaluation data is a stream: it must say how many records it has")
        if options.evaluation_images is not None and options.evaluation_images < 1:
            raise DataError("the number of evaluation images is 1 or more")
        self.evaluation_images = options.evaluation_images
        settings = self.checkpoint.settings
        self.prompt = self.tokenizer.encode_prompt(settings.prompt, settings.max_src_length)
        self.model = student(self.checkpoint, recipe)
        self.checkpoint = replace(self.checkpoint, state_dict={})  # the model has them

    def batches(self, per_image: bool = False) -> Batches:
        """Give this process's share of the training data."""
        recipe, config = self.recipe, self.checkpoint.config
        encoding = Encoding(
            self.tokenizer,
            self.checkpoint.settings.patch_image_size,
            recipe.max_words,
            config.max_position_embeddings - 1,
            recipe.caption_prefix,
        )
        processes = self.accelerator.num_processes
        share = Share(recipe.batch_size, recipe.accumulation, self.accelerator.process_index, processes)
        return Batches(self.data, encoding, share, per_image=per_image, seed=recipe.seed, workers=recipe.workers)

    def train(
        self, objective: nn.Module, batches: Batches, hooks: Sequence[Hook] = (), about: Mapping[str, Any] | None = None
    ) -> Result:
        """Train an objective of :attr:`model` to the end.

        Raises:
            Interrupted: when told to stop; the state is saved.
            DataError, RunError: see the loop.

        """
        if self.accelerator.is_main_process:
            run = {"checkpoint": self.checkpoint.sha256, "processes": self.accelerator.num_processes}
            if isinstance(self.data, CaptionData):
                run |= {"records": len(self.data), "training_data": _digest(self.data)}
            else:
                run["stream_order"] = STREAM_ORDER
            if self.evaluation:
                run["evaluation_data"] = _digest(self.evaluation, self.evaluation_images)
            self.work.begin(self.recipe, {**run, **(about or {})})
        self.accelerator.wait_for_everyone()
        trainer = Trainer(
            objective,
            batches,
            total_updates(self.recipe, batches.updates_per_epoch),
            batches.updates_per_epoch,
            self.recipe,
            self.accelerator,
            self.work,
            self._write,
            lambda: set_training(objective, self.recipe.freeze),
            self._evaluate if self.evaluation else None,
            [PlainLog(), ProgressBar(), CsvLog(self.work.path), *self._tensorboard(), *hooks],
        )
        trainer.run()
        if len(batches.bad):
            log.warning("%d records were skipped: %s", len(batches.bad), batches.bad.summary())
        checkpoint = self.work.best if self.work.best.exists() else self.work.last
        return Result(checkpoint, trainer.update, trainer.best)

    def _tensorboard(self) -> list[Hook]:
        return [TensorBoardLog(self.work.path)] if self.accelerator.is_main_process else []

    def _write(self, folder: Path) -> None:
        """Write the model with the structure it came with: training's own dropout is no part of it."""
        checkpoint = self.checkpoint
        weights = self.model.state_dict()
        save_checkpoint(folder, checkpoint.config, weights, checkpoint.settings, checkpoint.tokenizer_files)

    def _evaluate(self) -> dict[str, float]:
        """Caption this process's part of the evaluation data, and score all of it in every process."""
        records = list(self.evaluation.records)[: self.evaluation_images]
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        captioner = TorchCaptioner(self.model, self.checkpoint.settings, self.tokenizer, self.recipe.batch_size)
        answers = []
        with self.accelerator.autocast():
            for number, answer, _ in captioner.answers(records[rank::processes]):
                place = rank + number * processes
                if isinstance(answer, str):
                    answers.append((place, answer))
                else:
                    self.evaluation.bad.add(records[place].name, str(answer))
        captions = dict(sorted(gather_object(answers)))
        if not captions:
            raise DataError(f"no image of the evaluation data can be read: {self.evaluation.bad.summary()}")
        references = {str(number): records[number].captions for number in captions}
        exact = sum(is_exact(caption, records[number].captions) for number, caption in captions.items()) / len(captions)
        scored = cider(references, {str(number): caption for number, caption in captions.items()})
        return {"CIDEr": scored, "exact": 100 * exact}


def student(checkpoint: Checkpoint, recipe: Recipe) -> OFA:
    """Build a checkpoint's model with a recipe's regularisation and frozen parts."""
    config = replace(
        checkpoint.config,
        dropout=recipe.dropout,
        encoder_drop_path_rate=recipe.drop_path,
        decoder_drop_path_rate=recipe.drop_path,
    )
    model = OFA(config).to(memory_format=torch.channels_last)  # an update takes a sixth less time
    model.load_state_dict(dict(checkpoint.state_dict))
    freeze(model, recipe.freeze)
    if recipe.gradient_checkpointing:
        checkpoint_gradients(model)
    return model


def total_updates(recipe: Recipe, per_epoch: int | None) -> int:
    """Tell how many updates a run has."""
    if recipe.max_updates is not None:
        return recipe.max_updates
    if per_epoch is None:
        raise RecipeError("a stream has no epochs: say how many updates with max_updates")
    return max(1, round(recipe.epochs * per_epoch))


def _digest(data: CaptionData, records: int | None = None) -> str:
    """Tell data from other data: a run is continued, and its scores are compared, on the same."""
    digest = hashlib.sha256()
    data.hash_into(digest, records)
    return digest.hexdigest()[:16]


def _open(source: Source, options: DataOptions, streaming: bool) -> CaptionData | CaptionStream:
    return open_data(
        source, images=options.images, columns=options.columns, streaming=streaming, max_bad=options.max_bad
    )
