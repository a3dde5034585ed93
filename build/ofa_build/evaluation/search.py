"""Captions by PyTorch alone, many images at a time: for evaluating a model that is still being trained."""

from __future__ import annotations

import numpy as np
import torch
from ofa_serving.beam_search import BeamSearch, Candidates, Hypothesis, SpecialTokens
from ofa_serving.generation import GenerationConfig
from torch import Tensor

from ..checkpoint import PipelineSettings
from ..model import OFA


def normalise_pixels(pixels: Tensor, settings: PipelineSettings) -> Tensor:
    """Turn pixels uint8 [B, S, S, 3] into what the model takes: float [B, 3, S, S]."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (settings.mean, settings.std))
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def search_captions(
    model: OFA, pixels: Tensor, prompt: Tensor, settings: GenerationConfig, special: SpecialTokens
) -> list[list[Hypothesis]]:
    """Run the served beam search over a model in evaluation mode.

    Args:
        model: on any device.
        pixels: normalised, [B, 3, S, S].
        prompt: token ids [P].
        settings: of the search.
        special: the tokenizer's special tokens.

    Returns:
        Each image's finished hypotheses, best first.

    """
    states, positions = model.encoder(pixels, prompt)
    beams = settings.beam_size
    cross = [
        tuple(part.repeat_interleave(beams, 0) for part in pair) for pair in model.decoder.cross_keys_values(states)
    ]
    searches = [BeamSearch(settings, special) for _ in pixels]
    fed = np.zeros((len(searches), beams, 0), np.int64)
    running = list(range(len(searches)))
    while running:
        # Every search is at the same step, so their prefixes have one length.
        fed = np.concatenate([fed, np.stack([searches[index].tokens for index in running])[..., None]], -1)
        past = np.stack([searches[index].ancestors[:, : fed.shape[-1]] for index in running])
        prefixes = np.take_along_axis(fed, past, axis=1)  # each beam's own: what those it descends from were fed
        tokens = torch.from_numpy(prefixes.reshape(-1, fed.shape[-1])).to(pixels.device)
        logits = model.decoder.decode(tokens, cross, positions)[:, -1]
        count = max(searches[index].candidates for index in running)
        candidates = _candidates(logits, beams, settings.temperature, count, special)
        kept = [row for row, index in enumerate(running) if not searches[index].advance(candidates.of(row))]
        if len(kept) < len(running):
            running = [running[row] for row in kept]
            rows = torch.tensor(kept, device=pixels.device, dtype=torch.long)
            cross = [tuple(_keep(part, rows, beams) for part in pair) for pair in cross]
        fed = fed[kept]
    return [search.hypotheses for search in searches]


def _candidates(logits: Tensor, beams: int, temperature: float, count: int, special: SpecialTokens) -> Candidates:
    logprobs = (logits.float() / temperature).log_softmax(-1).unflatten(0, (-1, beams))
    best, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    parts = (ids, best, logprobs[..., special.eos], logprobs[..., special.unk])
    return Candidates(*(part.cpu().numpy() for part in parts))


def _keep(part: Tensor, rows: Tensor, beams: int) -> Tensor:
    return part.unflatten(0, (-1, beams))[rows].flatten(0, 1)
