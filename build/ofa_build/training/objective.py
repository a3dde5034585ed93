"""What training minimises: the caption's cross-entropy, and, for the image encoder, where each object is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_build.model import OFA
from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.render import IGNORED
from ofa_build.scenes.vocabulary import PAD
from ofa_build.training.scene_data import SceneBatch, decoder_inputs

FEATURE_CHANNELS = 1024
NOTHING_WEIGHT = 0.25
"""Most patches show only background and are soon told apart; the objects count for more."""
CENTRE_WEIGHT = 8.0
"""Few patches hold a centre; each counts for about as many as do not."""


@dataclass(frozen=True)
class Losses:
    """Means over the batch, as scalars that carry gradients."""

    caption: Tensor
    classes: Tensor
    centres: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.caption + self.classes + self.centres


class SceneObjective(nn.Module):
    """The model with a throw-away head that names each patch's object and finds the objects' centres.

    A randomly initialised ResNet learns from captions alone only slowly; told what stands where, it learns in minutes.
    The head never enters a checkpoint.
    """

    def __init__(self, model: OFA, prompt: list[int], label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing
        self.head = nn.Conv2d(FEATURE_CHANNELS, len(OBJECTS) + 2, 1)
        weights = torch.ones(len(OBJECTS) + 1)
        weights[0] = NOTHING_WEIGHT
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("prompt", torch.tensor(prompt), persistent=False)
        self._features: Tensor | None = None
        model.encoder.embed_images.register_forward_hook(self._keep_features)

    def _keep_features(self, _module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        self._features = output

    def forward(self, batch: SceneBatch) -> Losses:
        """Compute the losses of one batch; one of collages, which has no captions, trains the image encoder alone."""
        pixels = batch.normalised()
        if batch.targets.shape[1] == 0:
            self.model.encoder.embed_images(pixels)
            caption = torch.zeros(())
        else:
            caption = self.caption_loss(self.model(pixels, self.prompt, decoder_inputs(batch.targets)), batch.targets)
        seen = self.head(self._features).float()
        return Losses(
            caption,
            functional.cross_entropy(seen[:, :-1], batch.classes, self.class_weights, ignore_index=IGNORED),
            functional.binary_cross_entropy_with_logits(
                seen[:, -1], batch.centres, pos_weight=torch.tensor(CENTRE_WEIGHT)
            ),
        )

    def caption_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits [B, T, V] against padded targets [B, T]."""
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=self.label_smoothing,
        )
