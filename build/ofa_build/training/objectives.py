"""What a run minimises: terms that are sums over a batch, and what each is a mean over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..checkpoint import PipelineSettings
from ..data.batches import CaptionBatch
from ..evaluation.search import normalise_pixels
from ..model import OFA
from .criterion import counted_tokens, token_losses
from .recipe import Recipe


@dataclass(frozen=True)
class Term:
    """One summand of a batch's loss.

    Attributes:
        value: the sum over the batch, with its gradient.
        per: the unit whose count over the whole update the sum is divided by: ``token`` or ``image``.
        weight: what it is multiplied by; 0 only reports it.
    """

    value: Tensor
    per: str = "token"
    weight: float = 1.0


Terms = Mapping[str, Term]


class Objective(Protocol):
    """A module that turns batches into terms. Everything it trains is its parameter."""

    def units(self, batch: Any, update: int) -> Mapping[str, float]:
        """Count a batch's tokens and images, before it is computed."""

    def __call__(self, batch: Any, update: int) -> Terms:
        """Compute a batch's terms."""


class CrossEntropy(nn.Module):
    """OFA's first stage: the caption's label-smoothed cross-entropy."""

    def __init__(self, model: OFA, settings: PipelineSettings, prompt: list[int], recipe: Recipe) -> None:
        super().__init__()
        self.model, self.settings, self.recipe = model, settings, recipe
        self.pad = model.config.pad_token_id
        self.register_buffer("prompt", torch.tensor(prompt), persistent=False)

    def units(self, batch: CaptionBatch, update: int) -> Mapping[str, float]:
        """See :class:`Objective`."""
        return {
            "token": counted_tokens(int(self.counts(batch.targets).sum()), self.drop_worst(update)),
            "image": batch.images,
        }

    def forward(self, batch: CaptionBatch, update: int) -> Terms:
        """See :class:`Objective`."""
        return self.terms(
            self.logits(normalise_pixels(batch.pixels, self.settings), batch.targets), batch.targets, update
        )

    def logits(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Give logits [N, V], of the N tokens of targets [B, T] that are no padding, for pixels [B, 3, S, S]."""
        return self.model(pixels, self.prompt, self.inputs(targets), self.counts(targets))

    def terms(self, logits: Tensor, targets: Tensor, update: int) -> dict[str, Term]:
        """Give the terms of logits [N, V] against targets [B, T], N of which are no padding."""
        wanted = targets[self.counts(targets)]
        losses = token_losses(logits, wanted, self.recipe.label_smoothing, self.drop_worst(update))
        return {"loss": Term(losses.loss), "nll": Term(losses.nll.detach(), weight=0.0)}

    def counts(self, targets: Tensor) -> Tensor:
        """Tell which targets are no padding: bool [B, T]."""
        return targets != self.pad

    def inputs(self, targets: Tensor) -> Tensor:
        """Shift targets [B, T] right behind the start."""
        return torch.cat([torch.full_like(targets[:, :1], self.model.config.bos_token_id), targets[:, :-1]], 1)

    def drop_worst(self, update: int) -> float:
        """Give the share of tokens that an update leaves out; ``update`` counts from 0."""
        return self.recipe.drop_worst if update + 1 > self.recipe.drop_worst_after else 0.0
