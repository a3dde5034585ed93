"""A small model that learns from a large one: OFA-Compress's recipe, and what can be set beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import Checkpoint, load_checkpoint
from ..data.batches import CaptionBatch
from ..data.sources import CaptionStream, DataOptions
from ..evaluation.search import normalise_pixels
from .hooks import Hook
from .inner_states import Pair, matching_layers, recording
from .objectives import CrossEntropy, Term, Terms
from .recipe import DISTILLATION, Recipe, RecipeError
from .run import CaptionRun, Result, Source
from .teacher import CachedTeacher, Teacher


@dataclass(frozen=True)
class Losses:
    """What a student is told, and how loudly. The defaults are the published ones.

    Attributes:
        temperature: by which both models' logits are divided in the soft loss, which is multiplied by its square.
        hard: weight of the captions' cross-entropy.
        soft: weight of the cross-entropy with the teacher's distribution, per token.
        attention: weight of the attention's mean squared error, for every pair of layers.
        hidden: weight of the states' mean squared error.
        attention_map: pairs of layers; None is layer i to layer i on both sides.
        hidden_map: pairs of layers whose states match, through a learned projection where the widths differ.
    """

    temperature: float = 1.0
    hard: float = 1.0
    soft: float = 0.168
    attention: float = 1.0
    hidden: float = 1.0
    attention_map: tuple[Pair, ...] | None = None
    hidden_map: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise RecipeError(f"temperature is {self.temperature!r}; it must be above 0")
        for name in ("hard", "soft", "attention", "hidden"):
            if getattr(self, name) < 0:
                raise RecipeError(f"the weight {name} is {getattr(self, name)!r}; it must be 0 or more")


class Distillation(nn.Module):
    """The student with its losses; only it (and the projections, which no checkpoint has) learns."""

    def __init__(
        self, hard: CrossEntropy, teacher: Teacher | CachedTeacher, losses: Losses, pairs: Sequence[Pair], width: int
    ) -> None:
        """``pairs`` is the attention's map, ``width`` the teacher's ``d_model``."""
        super().__init__()
        self.hard, self.losses, self.pairs = hard, losses, tuple(pairs)
        self._teacher = (teacher,)  # no submodule: it neither learns nor is saved
        own = hard.model.config.d_model
        self.projections = nn.ModuleList([
            nn.Identity() if own == width else nn.Linear(own, width) for _ in losses.hidden_map
        ])  # fmt: skip

    def units(self, batch: CaptionBatch, update: int) -> Mapping[str, float]:
        """See :class:`~.objectives.Objective`."""
        return self.hard.units(batch, update)

    def forward(self, batch: CaptionBatch, update: int) -> Terms:
        """See :class:`~.objectives.Objective`."""
        hard, losses = self.hard, self.losses
        counts = hard.counts(batch.targets)
        lesson = self._teacher[0](batch, hard.inputs(batch.targets), counts)
        attention = [(pair.side, pair.student) for pair in self.pairs]
        hidden = [(pair.side, pair.student) for pair in losses.hidden_map]
        with recording(hard.model, attention, hidden) as own:
            logits = hard.logits(normalise_pixels(batch.pixels, hard.settings), batch.targets)
        terms = hard.terms(logits, batch.targets, update)
        told = {"hard": Term(terms["loss"].value, weight=losses.hard), "nll": terms["nll"]}
        told["soft"] = Term(soft_loss(logits, lesson.logits, losses.temperature), weight=losses.soft)
        mask = {"encoder": None, "decoder": counts.float()}
        if self.pairs:
            errors = [
                _attention_error(own.attention[pair.side, pair.student], lesson.attention[pair.side, pair.teacher],
                                 mask[pair.side])
                for pair in self.pairs
            ]  # fmt: skip
            told["attention"] = Term(sum(errors) * bool(batch.images), "image", losses.attention)
        if losses.hidden_map:
            errors = [
                _hidden_error(projection(own.hidden[pair.side, pair.student]), lesson.hidden[pair.side, pair.teacher],
                              mask[pair.side])
                for pair, projection in zip(losses.hidden_map, self.projections, strict=True)
            ]  # fmt: skip
            told["hidden"] = Term(sum(errors) * bool(batch.images), "image", losses.hidden)
        return told


def soft_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Sum over tokens: logits' [N, V] cross-entropy with a teacher's distribution, times the temperature's square."""
    given = (logits.float() / temperature).log_softmax(-1)
    return -((wanted / temperature).softmax(-1) * given).sum() * temperature**2


def _attention_error(own: Tensor, wanted: Tensor, counts: Tensor | None) -> Tensor:
    """Sum over images: the mean squared error of head-summed weights, [B, T, T], between positions that count."""
    squared = (own - wanted) ** 2
    if counts is None:
        return squared.mean((1, 2)).sum()
    mask = counts[:, :, None] * counts[:, None, :]
    return ((squared * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).sum()


def _hidden_error(own: Tensor, wanted: Tensor, counts: Tensor | None) -> Tensor:
    """Sum over images: the mean squared error of states [B, T, d] at positions that count."""
    squared = functional.mse_loss(own, wanted, reduction="none").mean(-1)
    if counts is None:
        return squared.mean(1).sum()
    return ((squared * counts).sum(1) / counts.sum(1).clamp(min=1)).sum()


def distil(
    teacher: str | Path,
    student: str | Path,
    train: Source,
    evaluation: Source | None = None,
    work_dir: str | Path = "work",
    *,
    losses: Losses | None = None,
    cache: str | Path | None = None,
    recipe: Recipe = DISTILLATION,
    data: DataOptions | None = None,
    hooks: Sequence[Hook] = (),
    **options: Any,
) -> Result:
    """Teach a student checkpoint what a teacher checkpoint knows.

    Args:
        teacher: a directory, a ``.pt`` file or a hub's name.
        student: the same; pretrained, and with the teacher's vocabulary.
        train: as for :func:`~.finetuning.finetune`.
        evaluation: as for :func:`~.finetuning.finetune`.
        work_dir: as for :func:`~.finetuning.finetune`.
        losses: what the student is told.
        cache: a folder in which the teacher's outputs are remembered.
        recipe: the numbers.
        data: how the data is read.
        hooks: what watches the run.
        **options: fields of the recipe.

    Raises:
        CheckpointError, DataError, RecipeError, RunError: each in one sentence.

    """
    recipe, losses = recipe.with_options(**options), losses or Losses()
    run = CaptionRun(student, train, evaluation, work_dir, recipe, data or DataOptions())
    source = load_checkpoint(teacher)
    if recipe.drop_worst:
        raise RecipeError("drop_worst leaves out tokens of which the teacher speaks too: it must be 0")
    published = matching_layers(source.config, run.checkpoint.config)
    pairs = (published if losses.attention_map is None else losses.attention_map) if losses.attention else ()
    if pairs and recipe.gradient_checkpointing:
        raise RecipeError("gradient_checkpointing does not keep the attention that is to be matched")
    _check(source, run.checkpoint, (*pairs, *losses.hidden_map), losses)
    wanted = [[(pair.side, pair.teacher) for pair in part] for part in (pairs, losses.hidden_map)]
    asked: Teacher | CachedTeacher = Teacher(source, run.accelerator.device, *wanted)
    source = replace(source, state_dict={})  # the model has them; a large teacher's are gigabytes
    if cache is not None:
        if isinstance(run.data, CaptionStream):
            raise RecipeError("a stream's examples have no names to remember the teacher's outputs by")
        asked = CachedTeacher(asked, Path(cache) / _digest(source, run, wanted))
    hard = CrossEntropy(run.model, run.checkpoint.settings, run.prompt, recipe)
    objective = Distillation(hard, asked, losses, pairs, source.config.d_model)
    about = {"teacher": source.sha256, "losses": _plain(asdict(losses))}
    return run.train(objective, run.batches(), hooks, about)


def _digest(teacher: Checkpoint, run: CaptionRun, wanted: Sequence[Any]) -> str:
    """Tell apart what a teacher says by everything that it depends on."""
    recipe = run.recipe
    how = _plain(asdict(teacher.settings))
    asked = (teacher.sha256, how, recipe.precision, recipe.max_words, recipe.caption_prefix, wanted)
    digest = hashlib.sha256(json.dumps(asked).encode())
    run.data.hash_into(digest)
    return digest.hexdigest()[:16]


def _check(teacher: Checkpoint, student: Checkpoint, pairs: Sequence[Pair], losses: Losses) -> None:
    """Refuse what cannot be compared."""
    if not teacher.has_vocabulary_of(student):
        raise RecipeError("teacher and student have different vocabularies; their logits cannot be compared")
    for name in ("patch_image_size", "prompt"):
        one, other = getattr(teacher.settings, name), getattr(student.settings, name)
        if one != other:
            raise RecipeError(f"{name} is {one!r} for the teacher and {other!r} for the student; it must be one")
    for pair in pairs:
        for who, checkpoint, layer in (("teacher", teacher, pair.teacher), ("student", student, pair.student)):
            layers = getattr(checkpoint.config, f"{pair.side}_layers")
            if layer >= layers:
                raise RecipeError(f"the {who}'s {pair.side} has {layers} layers; there is no layer {layer}")


def _plain(values: Any) -> Any:
    """Give what JSON gives back."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
