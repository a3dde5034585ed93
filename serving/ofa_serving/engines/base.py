"""What the pipeline asks of its engines, however they run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ..beam_search import Candidates
from .device import Array

SHORT_REACH = 24
"""Positions that most captions keep to: memory for no more than these is kept as it is, since to make it anew costs
more than it saves."""


class EncoderEngine(ABC):
    """One built encoder."""

    @abstractmethod
    def run(self, pixels: np.ndarray) -> Array:
        """States [b, N, d] of pixels UINT8 [b, S, S, 3]; they may be overwritten by the next run.

        They are FP32, or FP16 in that precision, and may lie on a GPU.
        """


class DecoderBatch(ABC):
    """The captions of one beam size K that an engine decodes together, and their caches.

    Captions are numbered 0 to C - 1 in the order they joined, until :meth:`keep` renumbers them.
    """

    @abstractmethod
    def join(self, states: Sequence[Array]) -> None:
        """Appends captions, given the encoder's states [N, d] of each; their cross-attention is prepared here, once."""

    @abstractmethod
    def keep(self, captions: Sequence[int]) -> None:
        """Leaves only these captions; the i-th one named becomes caption i. Naming few out of place costs least."""

    @abstractmethod
    def step(
        self, tokens: np.ndarray, steps: np.ndarray, ancestors: np.ndarray, temperature: np.ndarray, count: int
    ) -> Candidates:
        """Feeds one token to every beam.

        Args:
            tokens: INT64 [C, K].
            steps: INT64 [C], the position of each caption's tokens.
            ancestors: INT64 [C, K, P], see :attr:`BeamSearch.ancestors`; P is above every step.
            temperature: FP32 [C].
            count: candidates wanted of each beam.

        Returns:
            Candidates [C, K, count].
        """


class DecoderEngine(ABC):
    """One built decoder, from which batches of any beam size are opened."""

    @abstractmethod
    def open(self, beam_size: int) -> DecoderBatch:
        """An empty batch."""
