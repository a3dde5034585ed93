"""The vocabulary projection, ending in the few best tokens of each row instead of a row of the whole vocabulary."""

from __future__ import annotations

import torch
from ofa_serving.beam_search import SpecialTokens
from torch import Tensor, nn

from .attention import linear

CHUNK = 64
"""Tokens a chunk. The best M tokens lie in the M chunks with the best maxima, so the sort sees M chunks, not all."""


class VocabularyHead(nn.Module):
    """States [R, d] to each row's best candidates, exactly as a sort of the whole log-softmax would give them."""

    def __init__(self, weight: Tensor, special: SpecialTokens) -> None:
        super().__init__()
        self.vocabulary, self.special = len(weight), special
        padding = -self.vocabulary % CHUNK
        bias = torch.zeros(self.vocabulary + padding)
        bias[self.vocabulary :] = float("-inf")  # padding never enters the sum and is never chosen
        self.projection = linear(nn.functional.pad(weight, (0, 0, 0, padding)), bias)

    def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States [R, d] and the wanted count M, INT64 [1].

        Returns:
            ids INT64 [R, M] by descending log-probability, logprobs FP32 [R, M], and those of eos and unk [R].
        """
        logprobs = self.projection(x).log_softmax(-1)
        chunks = logprobs.view(x.shape[0], -1, CHUNK)
        _, chosen = top(chunks.amax(-1), count.clamp(max=chunks.shape[1]))
        members = chunks.gather(1, chosen.unsqueeze(-1).expand(-1, -1, CHUNK)).flatten(1)
        best, place = top(members, count)
        ids = chosen.gather(1, place // CHUNK) * CHUNK + place % CHUNK
        return ids, best, logprobs[:, self.special.eos], logprobs[:, self.special.unk]


def top(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The best ``count`` (INT64 [1]) values of each row and their places, best first."""
    size = count.item()
    torch._check(size >= 1)  # tells the exporter that the count is a dimension
    torch._check(size <= x.shape[1])
    return x.topk(size, dim=-1)
