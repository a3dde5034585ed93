"""Fine-tuning on captioned images: OFA's cross-entropy stage, then its self-critical one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.sources import DataOptions
from .hooks import Hook
from .objectives import CrossEntropy
from .recipe import STAGES, Recipe
from .run import CaptionRun, Result, Source
from .self_critical import SelfCritical


def finetune(
    checkpoint: str | Path,
    train: Source,
    evaluation: Source | None = None,
    work_dir: str | Path = "work",
    *,
    stage: str = "cross-entropy",
    recipe: Recipe | None = None,
    data: DataOptions | None = None,
    hooks: Sequence[Hook] = (),
    **options: Any,
) -> Result:
    """Fine-tune a checkpoint.

    >>> finetune("damo/ofa_image-caption_coco_distilled_en", "train.json", "val.json", epochs=3)  # doctest: +SKIP

    Args:
        checkpoint: a directory, a ``.pt`` file or a hub's name.
        train: any data that :func:`~ofa_build.data.open_data` opens, or ``dataset.json:train`` of a Karpathy file.
        evaluation: more of it; the checkpoint with the best CIDEr is kept. None keeps the last.
        work_dir: where the run is kept, and continued if it was interrupted.
        stage: ``cross-entropy``, or ``self-critical``, which wants a checkpoint that has been through the first.
        recipe: instead of the stage's published one.
        data: how the data is read.
        hooks: what watches the run.
        **options: fields of the recipe, such as ``epochs`` and ``learning_rate``.

    Raises:
        CheckpointError, DataError, RecipeError, RunError: each in one sentence.

    """
    recipe = (recipe or STAGES[stage]).with_options(**options)
    run = CaptionRun(checkpoint, train, evaluation, work_dir, recipe, data or DataOptions())
    about = {"stage": stage}
    if stage == "self-critical":
        objective = SelfCritical(run.model, run.checkpoint, run.data, recipe)
        return run.train(objective, run.batches(per_image=True), hooks, about)
    objective = CrossEntropy(run.model, run.checkpoint.settings, run.prompt, recipe)
    return run.train(objective, run.batches(), hooks, about)
