"""What pretraining minimises: the caption's cross-entropy, and, for the image encoder, where each object is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.render import IGNORED
from ofa_build.training.objectives import CrossEntropy, Term, Terms
from ofa_build.training.scene_data import SceneBatch

FEATURE_CHANNELS = 1024
NOTHING_WEIGHT = 0.25
"""Most patches show only background and are soon told apart; the objects count for more."""
CENTRE_WEIGHT = 8.0
"""Few patches hold a centre; each counts for about as many as do not."""


class SceneObjective(nn.Module):
    """The model with a throw-away head that names each patch's object and finds the objects' centres.

    A randomly initialised ResNet learns from captions alone only slowly; told what stands where, it learns in minutes.
    The head never enters a checkpoint.
    """

    def __init__(self, captions: CrossEntropy) -> None:
        super().__init__()
        self.captions = captions
        self.head = nn.Conv2d(FEATURE_CHANNELS, len(OBJECTS) + 2, 1)
        weights = torch.ones(len(OBJECTS) + 1)
        weights[0] = NOTHING_WEIGHT
        self.register_buffer("class_weights", weights, persistent=False)
        self._features: Tensor | None = None
        captions.model.encoder.embed_images.register_forward_hook(self._keep_features)

    def _keep_features(self, _module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        self._features = output

    def units(self, batch: SceneBatch, update: int) -> Mapping[str, float]:
        """See :class:`~.objectives.Objective`."""
        return self.captions.units(batch, update)

    def forward(self, batch: SceneBatch, update: int) -> Terms:
        """Compute the terms of one batch; one of collages, which has no captions, trains the image encoder alone."""
        captions, pixels, terms = self.captions, batch.normalised(), {}
        if batch.targets.shape[1] == 0:
            captions.model.encoder.embed_images(pixels)
        else:
            logits = captions.model(pixels, captions.prompt, captions.inputs(batch.targets))
            terms = captions.terms(logits, batch.targets, update)
        seen, images = self.head(self._features).float(), batch.images
        classes = functional.cross_entropy(seen[:, :-1], batch.classes, self.class_weights, ignore_index=IGNORED)
        weight = torch.tensor(CENTRE_WEIGHT, device=seen.device)
        centres = functional.binary_cross_entropy_with_logits(seen[:, -1], batch.centres, pos_weight=weight)
        return {**terms, "classes": Term(classes * images, "image"), "centres": Term(centres * images, "image")}
