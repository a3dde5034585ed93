"""The decoder in plain PyTorch: no caches, no exported graphs. Slow, and the measure of every other engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ofa_serving.beam_search import Candidates, SpecialTokens
from ofa_serving.engines.base import DecoderBatch, DecoderEngine
from torch import Tensor

from .model import OFA


class TorchEngine(DecoderEngine):
    """Runs the whole prefix of every beam through the model at each step."""

    def __init__(self, model: OFA, source_positions: Tensor, special: SpecialTokens) -> None:
        """``source_positions`` [N, d] are the encoder's position embeddings."""
        self.model, self.source_positions, self.special = model.eval(), source_positions, special

    def open(self, beam_size: int) -> DecoderBatch:
        """See :meth:`DecoderEngine.open`."""
        return _TorchBatch(self, beam_size)


class _TorchBatch(DecoderBatch):
    def __init__(self, engine: TorchEngine, beam_size: int) -> None:
        self._engine, self._beams = engine, beam_size
        self._hidden: list[np.ndarray] = []
        self._fed: list[list[np.ndarray]] = []  # of each caption, the tokens [K] of each position

    def join(self, hidden: np.ndarray) -> None:
        """See :meth:`DecoderBatch.join`."""
        self._hidden += list(hidden)
        self._fed += [[] for _ in hidden]

    def keep(self, captions: Sequence[int]) -> None:
        """See :meth:`DecoderBatch.keep`."""
        self._hidden = [self._hidden[caption] for caption in captions]
        self._fed = [self._fed[caption] for caption in captions]

    @torch.inference_mode()
    def step(
        self, tokens: np.ndarray, steps: np.ndarray, ancestors: np.ndarray, temperature: np.ndarray, count: int
    ) -> Candidates:
        """See :meth:`DecoderBatch.step`."""
        rows = [self._logits(caption, *row) for caption, row in enumerate(zip(tokens, ancestors, strict=True))]
        logprobs = torch.stack([(row / float(t)).log_softmax(-1) for row, t in zip(rows, temperature, strict=True)])
        best, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
        special = self._engine.special
        return Candidates(
            ids.numpy(), best.numpy(), logprobs[..., special.eos].numpy(), logprobs[..., special.unk].numpy()
        )

    def _logits(self, caption: int, tokens: np.ndarray, ancestors: np.ndarray) -> Tensor:
        """Logits [K, V] of one caption after it is fed its next tokens [K]."""
        fed = self._fed[caption]
        fed.append(tokens)
        prefixes = np.stack([row[ancestors[:, position]] for position, row in enumerate(fed)], axis=1)
        hidden = torch.from_numpy(self._hidden[caption]).expand(self._beams, -1, -1)
        engine = self._engine
        return engine.model.decoder(torch.from_numpy(prefixes), hidden, engine.source_positions)[:, -1]
