"""A flag for every field of a recipe; what is not given is the stage's published value."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..data.sources import DataOptions
from ..training.recipe import FREEZABLE, PRECISIONS
from ..training.work_folder import RunError
from .data_flags import data_options

if TYPE_CHECKING:
    from ..training.run import Result

log = logging.getLogger("ofa-build")

_FLAGS: dict[str, tuple[type, str]] = {
    "epochs": (float, "passes over the data"),
    "max_updates": (int, "updates, instead of epochs; a stream needs it"),
    "batch_size": (int, "examples a process computes at a time"),
    "accumulation": (int, "batches an update"),
    "learning_rate": (float, "the highest"),
    "end_learning_rate": (float, "the last"),
    "power": (float, "of the polynomial by which the rate falls"),
    "warm_up": (float, "share of the updates in which the rate rises"),
    "weight_decay": (float, "of AdamW"),
    "clip_norm": (float, "largest norm of the gradient; 0 does not clip"),
    "label_smoothing": (float, "0 to below 1"),
    "drop_worst": (float, "share of tokens, with the largest losses, that do not count"),
    "drop_worst_after": (int, "updates after which they do not"),
    "dropout": (float, "0 to below 1"),
    "drop_path": (float, "of the last layer"),
    "max_words": (int, "words of a caption that are learned"),
    "caption_prefix": (str, "put before every caption; OFA's own training puts a blank"),
    "seed": (int, "of the data's order and of dropout"),
    "workers": (int, "processes that decode images"),
    "log_every": (int, "updates"),
    "save_every": (int, "updates"),
    "evaluate_every": (int, "updates; 0 is an epoch"),
    "keep": (int, "checkpoints, the best one apart"),
}


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`options_of` reads."""
    recipe = parser.add_argument_group("recipe", "what is left out has the published value, but for OFA's batch of 128")
    for name, (kind, text) in _FLAGS.items():
        recipe.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    recipe.add_argument("--freeze", nargs="*", choices=FREEZABLE, help="what does not learn (published: embeddings)")
    recipe.add_argument("--precision", choices=PRECISIONS)
    recipe.add_argument("--gradient-checkpointing", action="store_true", default=None, help="less memory, more time")
    recipe.add_argument("--streaming", action="store_true", help="read the training data in order, never all of it")
    recipe.add_argument("--eval-images", type=int, metavar="N", help="the first N of the evaluation data only")


def options_of(flags: argparse.Namespace) -> dict[str, Any]:
    """Give the recipe's fields that were set."""
    names = (*_FLAGS, "precision", "gradient_checkpointing")
    options = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return options if flags.freeze is None else {**options, "freeze": tuple(flags.freeze)}


def data_of(flags: argparse.Namespace) -> DataOptions:
    """Give how the data is read."""
    return DataOptions(**data_options(flags), streaming=flags.streaming, evaluation_images=flags.eval_images)


def load(name: str) -> ModuleType:
    """Import a module of training, whose libraries are an extra of their own.

    Raises:
        RunError: naming the one that is not installed.

    """
    try:
        return importlib.import_module(f"ofa_build.training.{name}")
    except ImportError as error:
        raise RunError(f"{error.name} is not installed: install ofa-triton[train]") from error


def log_result(result: Result) -> None:
    """Say what there is now; of torchrun's processes, the first one does."""
    if os.environ.get("RANK", "0") != "0":
        return
    scores = ", ".join(f"{name} {value:.1f}" for name, value in result.scores.items())
    log.info("trained %s%s", result.checkpoint, f": {scores}" if scores else "")
