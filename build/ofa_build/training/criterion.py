"""OFA's label-smoothed cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLosses:
    """Sums over the tokens that count: the loss, the plain negative log-likelihood, and how many there are."""

    loss: Tensor
    nll: Tensor
    tokens: int


def counted_tokens(tokens: int, drop_worst: float = 0.0) -> int:
    """Tell how many of so many tokens the loss is a mean over."""
    return int(tokens * (1 - drop_worst))


def token_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, drop_worst: float = 0.0) -> TokenLosses:
    """Compare logits with targets, token by token.

    A token's loss is ``(1 - s - s / (V - 1)) * nll + s / (V - 1) * sum of all tokens' nll``: the smoothing ``s`` goes
    in equal parts to the tokens that are not the target.

    Args:
        logits: [N, V].
        targets: [N], without padding.
        label_smoothing: s, 0 to 1.
        drop_worst: the share of tokens, those with the largest losses, that do not count.

    """
    logprobs = logits.float().log_softmax(-1)
    nll = -logprobs.gather(-1, targets[:, None]).squeeze(-1)
    share = label_smoothing / (logits.shape[-1] - 1)
    loss = (1 - label_smoothing - share) * nll - share * logprobs.sum(-1)
    tokens = counted_tokens(len(targets), drop_worst)
    if tokens < len(loss):
        loss, kept = torch.topk(loss, tokens, largest=False)
        nll = nll[kept]
    return TokenLosses(loss.sum(), nll.sum(), tokens)
