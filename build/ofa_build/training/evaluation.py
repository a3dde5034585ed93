"""How many captions of scenes come out exactly right."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ofa_build.model import OFA
from ofa_build.scenes.vocabulary import BOS, EOS, CaptionTokenizer
from ofa_build.training.scene_data import MAX_TOKENS, SceneBatch


@torch.inference_mode()
def greedy_tokens(model: OFA, pixels: Tensor, prompt: Tensor) -> Tensor:
    """Take the likeliest token at every step: [B, at most MAX_TOKENS], for normalised pixels [B, 3, S, S]."""
    states, positions = model.encoder(pixels, prompt)
    tokens = torch.full((len(pixels), 1), BOS)
    ended = torch.zeros(len(pixels), dtype=torch.bool)
    while tokens.shape[1] <= MAX_TOKENS and not ended.all():
        best = model.decoder(tokens, states, positions)[:, -1].argmax(-1)
        ended |= best == EOS
        tokens = torch.cat([tokens, best[:, None]], 1)
    return tokens[:, 1:]


def exact_match(
    model: OFA, batches: Iterable[SceneBatch], tokenizer: CaptionTokenizer
) -> tuple[float, list[tuple[str, str]]]:
    """Give the share of greedy captions equal to the scene's own, and the (wanted, given) pairs that differ."""
    training = model.training
    model.eval()
    prompt = torch.tensor(tokenizer.prompt())
    total, wrong = 0, []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            given = greedy_tokens(model, batch.normalised(), prompt)
        for target, tokens in zip(batch.targets.tolist(), given.tolist(), strict=True):
            total += 1
            wanted, text = tokenizer.text(target), tokenizer.text(tokens)
            if wanted != text:
                wrong.append((wanted, text))
    model.train(training)
    return 1 - len(wrong) / total, wrong
