"""Which parts of a model learn, and how much memory its layers' gradients take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # SyncBatchNorm is one, and no BatchNorm2d
from torch.utils.checkpoint import checkpoint

from ..model import OFA
from ..model.resnet import ResNet

_UNUSED = ("embed_image_positions", "image_pos_ln", "image_rel_pos_table_list", "code_layernorm_embedding")
"""Parts of the decoder that captioning never runs; they are kept as they are."""


def freeze(model: OFA, parts: Iterable[str]) -> None:
    """Exclude parts, see :data:`~.recipe.FREEZABLE`, from learning.

    Frozen embeddings include the output projection that is tied to them.
    """
    for name in _UNUSED:
        part = getattr(model.decoder, name)
        if part is not None:
            part.requires_grad_(False)
    if "embeddings" in parts:
        model.encoder.embed_tokens.requires_grad_(False)
    for module in _frozen_images(model, parts):
        module.requires_grad_(False)


def set_training(model: nn.Module, parts: Iterable[str]) -> None:
    """Put a model into training mode, all but the batch norms of what is frozen: those keep their statistics."""
    model.train()
    for part in _frozen_images(model, parts):
        for module in _batch_norms(part):
            module.eval()


def checkpoint_gradients(model: OFA) -> None:
    """Have the transformer's layers compute their activations again on the way back, instead of keeping them."""
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _frozen_images(model: nn.Module, parts: Iterable[str]) -> Iterator[nn.Module]:
    """Give the parts of the image backbone, a model's or an objective's, that do not learn."""
    for resnet in [module for module in model.modules() if isinstance(module, ResNet)]:
        if "resnet" in parts:
            yield resnet
        if "stem" in parts:
            yield from (resnet.conv1, resnet.bn1, resnet.layer1)
        if "batch-norm" in parts:
            yield from _batch_norms(resnet)


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
