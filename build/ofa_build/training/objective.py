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
from ofa_build.training.scene_data import SceneBatch

FEATURE_CHANNELS = 1024


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
        self.register_buffer("prompt", torch.tensor(prompt), persistent=False)
        self._features: Tensor | None = None
        model.encoder.embed_images.register_forward_hook(self._keep_features)

    def _keep_features(self, _module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        self._features = output

    def forward(self, batch: SceneBatch) -> Losses:
        """Compute the losses of one batch."""
        logits = self.model(batch.normalised(), self.prompt, batch.decoder_inputs)
        seen = self.head(self._features).float()
        return Losses(
            functional.cross_entropy(
                logits.flatten(0, 1).float(),
                batch.targets.flatten(),
                ignore_index=PAD,
                label_smoothing=self.label_smoothing,
            ),
            functional.cross_entropy(seen[:, :-1], batch.classes, ignore_index=IGNORED),
            functional.binary_cross_entropy_with_logits(
                seen[:, -1], batch.centres, pos_weight=torch.tensor(CENTRE_WEIGHT)
            ),
        )


CENTRE_WEIGHT = 8.0
"""Few patches hold a centre; each counts for about as many as do not."""
