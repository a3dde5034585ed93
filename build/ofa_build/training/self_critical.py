"""OFA's second stage: the model is rewarded for captions of its own (Rennie et al., 2017; Luo, 2020)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..data import DataError
from ..data.batches import CaptionBatch
from ..data.sources import CaptionData, CaptionStream
from ..evaluation.search import normalise_pixels, search_captions
from ..model import OFA
from .cider_d import CiderD
from .objectives import Term, Terms
from .recipe import Recipe, RecipeError

log = logging.getLogger("ofa-build")


class SelfCritical(nn.Module):
    """The beam search's hypotheses of each image, each weighed by how far its CIDEr-D is above the others' mean.

    Args:
        model: the model that learns.
        checkpoint: its settings say how captions are searched for.
        data: the training data; the rarity of words is counted on its captions.
        recipe: the numbers.

    Raises:
        DataError: for a stream: its captions cannot be counted beforehand.
        RecipeError: if the search has a single beam, which has no others to be compared with.

    """

    def __init__(self, model: OFA, checkpoint: Checkpoint, data: CaptionData | CaptionStream, recipe: Recipe) -> None:
        super().__init__()
        if isinstance(data, CaptionStream):
            raise DataError("the self-critical stage counts the words of all captions first and cannot read a stream")
        self.model, self.settings, self.recipe = model, checkpoint.settings, recipe
        self.tokenizer = checkpoint.tokenizer
        generation = checkpoint.settings.generation
        self.generation = replace(generation, num_captions=generation.beam_size)
        if generation.beam_size < 2:
            raise RecipeError("the self-critical stage compares hypotheses: the checkpoint's beam_size must be above 1")
        prompt = self.tokenizer.encode_prompt(self.settings.prompt, self.settings.max_src_length)
        self.register_buffer("prompt", torch.tensor(prompt), persistent=False)
        if all(len(record.captions) == 1 for record in data.records):
            log.warning("every image has a single reference: rows of one image count as one only if they name its file")
        self._reward = CiderD(record.captions for record in data.records)

    def units(self, batch: CaptionBatch, update: int) -> Mapping[str, float]:
        """See :class:`~.objectives.Objective`. A caption's length is not known yet: the loss is per image."""
        return {"token": 0.0, "image": batch.images}

    def forward(self, batch: CaptionBatch, update: int) -> Terms:
        """See :class:`~.objectives.Objective`."""
        pixels = normalise_pixels(batch.pixels, self.settings)
        targets, texts = self._hypotheses(pixels)
        references = [batch.references[image] if batch.images else ("",) for image in range(len(pixels))]
        rewards = np.array([
            [self._reward.score(text, captions) for text in of_image]
            for of_image, captions in zip(texts, references, strict=True)
        ])  # fmt: skip
        count = rewards.shape[1]
        baselines = (rewards.sum(1, keepdims=True) - rewards) / (count - 1)
        advantages = torch.tensor(rewards - baselines, dtype=torch.float32, device=pixels.device).flatten()
        # A batch of nothing runs as well: batch norms that are shared between processes wait for each of them.
        loss = self._loss(pixels, targets, advantages * bool(batch.images), count)
        return {"loss": Term(loss, "image"), "reward": Term(loss.new_tensor(rewards.mean(1).sum() * bool(batch.images)),
                "image", weight=0.0)}  # fmt: skip

    @torch.no_grad()
    def _hypotheses(self, pixels: Tensor) -> tuple[Tensor, list[list[str]]]:
        """Search without dropout; gives tokens [B * K, T], padded, and each image's K texts."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        special = self.tokenizer.special
        found = search_captions(self.model, pixels, self.prompt, self.generation, special)
        for module, mode in modes:
            module.training = mode
        beams = self.generation.beam_size
        # A search can end with fewer hypotheses than beams: its best one then stands for those that are missing.
        kept = [(hypotheses * beams)[:beams] if len(hypotheses) < beams else hypotheses for hypotheses in found]
        tokens = [hypothesis.tokens for hypotheses in kept for hypothesis in hypotheses]
        targets = torch.full((len(tokens), max(map(len, tokens))), special.pad)
        for row, own in zip(targets, tokens, strict=True):
            row[: len(own)] = torch.from_numpy(own.astype(np.int64))
        texts = [[self.tokenizer.caption(hypothesis.tokens.tolist()) for hypothesis in own] for own in kept]
        return targets.to(pixels.device), texts

    def _loss(self, pixels: Tensor, targets: Tensor, advantages: Tensor, count: int) -> Tensor:
        """Sum over images: the mean over an image's tokens of the negative log-likelihood times the advantage."""
        states, positions = self.model.encoder(pixels, self.prompt)
        start = torch.full_like(targets[:, :1], self.model.config.bos_token_id)
        inputs = torch.cat([start, targets[:, :-1]], 1)
        logits = self.model.decoder(inputs, states.repeat_interleave(count, 0), positions)
        logprobs = logits.float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
        counts = (targets != self.tokenizer.special.pad).float()
        weighed = (-logprobs * advantages[:, None] * counts).unflatten(0, (-1, count)).sum((1, 2))
        return (weighed / counts.unflatten(0, (-1, count)).sum((1, 2))).sum()
