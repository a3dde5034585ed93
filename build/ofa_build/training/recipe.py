"""How a run trains: the numbers, and the schedule of the learning rate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""The choices, and accelerate's names for them."""

FREEZABLE = ("embeddings", "resnet", "stem", "batch-norm")
"""What can be kept as the checkpoint has it: ``stem`` is the ResNet's first convolution and stage, where much of an
update's time goes and little is left to learn. ``resnet`` and ``stem`` include their batch norms' statistics."""

_NOT_THE_RESULT = frozenset({"workers", "log_every", "save_every", "evaluate_every", "keep", "gradient_checkpointing"})
"""Fields that a continued run may have otherwise: they do not change what is learned from an update."""


class RecipeError(ValueError):
    """A recipe's value makes no sense; the message names it."""


@dataclass(frozen=True)
class Recipe:
    """A training run's numbers. The defaults are those of OFA's cross-entropy stage, but for the batch.

    Examples of one update: ``batch_size`` x ``accumulation`` x processes. OFA's script has 8 x 4 x 4 GPUs = 128; here
    it is 8 unless ``accumulation`` or the processes say more, so that a small data set has updates enough. Whatever
    counts updates (``drop_worst_after``) then comes after fewer examples than OFA's. Rates are shares of 1.
    """

    epochs: float = 5
    max_updates: int | None = None  # instead of epochs; a stream needs it
    batch_size: int = 8  # examples a process has in memory
    accumulation: int = 1  # batches an update
    learning_rate: float = 1e-5  # the highest
    end_learning_rate: float = 0.0
    power: float = 1.0  # of the polynomial by which the rate falls
    warm_up: float = 0.06  # of all updates, in which the rate rises
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    clip_norm: float = 1.0  # 0: gradients are not clipped
    label_smoothing: float = 0.1
    drop_worst: float = 0.2  # of the tokens, those with the largest losses
    drop_worst_after: int = 6000  # updates
    dropout: float = 0.1
    drop_path: float = 0.1  # of encoder and decoder layers, the last one's
    freeze: tuple[str, ...] = ("embeddings",)
    max_words: int = 20  # of a caption
    caption_prefix: str = ""
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 7
    workers: int = 2  # processes that decode images
    log_every: int = 50  # updates
    save_every: int = 500
    evaluate_every: int = 0  # updates; 0: at the end of every epoch
    keep: int = 2  # last checkpoints, the best one apart

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float):
                self._require(math.isfinite(value), name, "a finite number")
        positive = ("batch_size", "accumulation", "max_words", "log_every", "save_every", "keep")
        for name in positive:
            self._require(getattr(self, name) >= 1, name, "1 or more")
        for name in ("warm_up", "label_smoothing", "drop_worst", "dropout", "drop_path"):
            self._require(0 <= getattr(self, name) < 1, name, "0 to below 1")
        for name in ("end_learning_rate", "weight_decay", "clip_norm", "drop_worst_after", "workers", "evaluate_every"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(self.learning_rate > 0, "learning_rate", "above 0")
        self._require(self.epochs > 0, "epochs", "above 0")
        self._require(self.max_updates is None or self.max_updates >= 1, "max_updates", "1 or more")
        self._require(self.precision in PRECISIONS, "precision", " or ".join(PRECISIONS))
        self._require(set(self.freeze) <= set(FREEZABLE), "freeze", f"among {', '.join(FREEZABLE)}")

    def _require(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise RecipeError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

    def with_options(self, **options: Any) -> Self:
        """Give a recipe with other values.

        Raises:
            RecipeError: naming the one that is unknown or makes no sense.

        """
        known = {field.name for field in fields(self)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise RecipeError(f"{unknown[0]} is no field of a recipe; there are {', '.join(sorted(known))}")
        return replace(self, **options)

    def identity(self) -> dict[str, Any]:
        """Give what a continued run must have in common with the one it continues."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_THE_RESULT}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def learning_rate_at(self, update: int, updates: int) -> float:
        """Rise linearly over the warm-up, then fall along the polynomial; ``update`` counts from 0."""
        rising = int(self.warm_up * updates)
        if update < rising:
            return self.learning_rate * (update + 1) / rising
        left = 1 - (update - rising) / max(1, updates - rising)
        return self.end_learning_rate + (self.learning_rate - self.end_learning_rate) * max(0.0, left) ** self.power


CROSS_ENTROPY = Recipe()
"""OFA's first stage, but for the batch; for large, its script has 2 epochs and ``drop_worst_after`` 2500."""

SELF_CRITICAL = Recipe(
    label_smoothing=0.0,
    drop_worst=0.0,
    dropout=0.0,
    drop_path=0.0,
    batch_size=2,
    accumulation=4,
    epochs=3,
)
"""OFA's second stage: no dropout, the same learning rate."""

DISTILLATION = Recipe(learning_rate=2e-5, warm_up=0.01, drop_worst=0.0)
"""OFA-Compress: five epochs, batches of 8."""

STAGES = {"cross-entropy": CROSS_ENTROPY, "self-critical": SELF_CRITICAL}
"""The stages of fine-tuning and their recipes."""
