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

    def forward(self, x: Tensor, temperature: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States [R, d], the temperature of each row, FP32 [R, 1], and the wanted count M.

        Returns:
            ids INT64 [R, M] by descending log-probability, logprobs FP32 [R, M], and those of eos and unk [R].
        """
        if x.dtype == torch.float32:  # fewer states than logits are to be divided
            logits = self.projection(x / temperature)
        else:  # the sum over the vocabulary, and quotients by small temperatures, are beyond float16
            logits = self.projection(x).float() / temperature
        logprobs = logits.log_softmax(-1)
        chunks = logprobs.view(x.shape[0], -1, CHUNK)
        _, chosen = chunks.amax(-1).topk(torch.sym_min(count, chunks.shape[1]), dim=-1)
        members = chunks.gather(1, chosen.unsqueeze(-1).expand(-1, -1, CHUNK)).flatten(1)
        best, place = members.topk(count, dim=-1)
        nth = torch.div(place, CHUNK, rounding_mode="trunc")  # operators that every runtime has, and few of them
        ids = place + (chosen.gather(1, nth) - nth) * CHUNK
        return ids, best, logprobs[:, self.special.eos], logprobs[:, self.special.unk]
