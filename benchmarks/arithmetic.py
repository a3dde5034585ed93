"""The arithmetic of one caption, counted operator by operator over the exported graphs without computing anything."""

from __future__ import annotations

import torch
from ofa_build.export.decoder import CrossGraph, StepGraph
from ofa_build.export.encoder import EncoderGraph
from ofa_build.model import OFA, OFAConfig
from ofa_serving.beam_search import SpecialTokens
from torch.utils.flop_counter import FlopCounterMode

STEPS = 12
"""Tokens of a usual caption and its end."""

PROMPT = 7
CANDIDATES = 16


def gflop_a_caption(config: OFAConfig, image_size: int, beam_size: int) -> float:
    """Multiplications and additions of the encoder, cross-attention and :data:`STEPS` steps of every beam, in 10^9.

    Args:
        config: the model's.
        image_size: pixels along a side.
        beam_size: beams.
    """
    whole = {"dtype": torch.int64}
    with torch.device("meta"), torch.no_grad():
        model = OFA(config).eval().requires_grad_(False)
        encoder = EncoderGraph(model, torch.empty(PROMPT, **whole), image_size, (0.5,) * 3, (0.5,) * 3)
        source = encoder.positions[2]
        cross, step = CrossGraph(model), StepGraph(model, SpecialTokens(), source, STEPS)
        pixels = torch.empty(1, image_size, image_size, 3, dtype=torch.uint8)
        heads, width = config.decoder_attention_heads, config.head_dim
        caches = [torch.empty(1, heads, STEPS * beam_size, width) for _ in range(2 * config.decoder_layers)]
        given = [
            torch.empty(1, beam_size, **whole),
            torch.empty(1, **whole),
            torch.empty(1, beam_size, **whole),
            torch.empty(1, beam_size, STEPS, **whole),
            torch.empty(1),
            torch.empty(CANDIDATES, **whole),
        ]
        with FlopCounterMode(display=False) as once:
            keys_values = cross.eval()(encoder.eval()(pixels))
        with FlopCounterMode(display=False) as each:
            step.eval()(*given, *caches, *keys_values)
    return (once.get_total_flops() + STEPS * each.get_total_flops()) / 1e9
