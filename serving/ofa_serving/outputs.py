"""Finished searches as the contract's output tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from .beam_search import Hypothesis
from .contract import Tensor
from .scheduler import SearchResult
from .tokenizer import Tokenizer

NOTHING = Hypothesis(np.zeros(0, np.int32), np.zeros(0, np.float32), float("-inf"))
"""Stands where a search found fewer hypotheses than were asked for, as the reference's empty text does."""


def output_tensors(
    results: Sequence[SearchResult], count: int, wanted: Collection[str], tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """The wanted tensors of b captions' searches, ``count`` hypotheses each, and no others.

    Returns:
        Of ``caption`` BYTES [b, n], ``score`` FP32 [b, n], ``tokens`` INT32 and ``token_logprobs`` FP32 [b, n, T] and
        ``search_ms`` FP32 [b, 2] those that were wanted.
    """
    best = [(result.hypotheses + [NOTHING] * count)[:count] for result in results]
    makers: dict[str, Callable[[], np.ndarray]] = {
        Tensor.CAPTION: lambda: _texts(best, tokenizer),
        Tensor.SCORE: lambda: np.array([[h.score for h in row] for row in best], np.float32),
        Tensor.TOKENS: lambda: _padded([[h.tokens for h in row] for row in best], np.int32(tokenizer.special.pad)),
        Tensor.TOKEN_LOGPROBS: lambda: _padded([[h.logprobs for h in row] for row in best], np.float32(0)),
        Tensor.SEARCH_MS: lambda: np.array([[r.queue_ms, r.search_ms] for r in results], np.float32),
    }
    return {name: make() for name, make in makers.items() if name in wanted}


def _texts(best: list[list[Hypothesis]], tokenizer: Tokenizer) -> np.ndarray:
    return np.array([[tokenizer.caption(h.tokens.tolist()).encode() for h in row] for row in best], np.object_)


def _padded(rows: list[list[np.ndarray]], fill: np.generic) -> np.ndarray:
    """Arrays of differing lengths as one [b, n, T]."""
    length = max(len(values) for row in rows for values in row)
    padded = np.full((len(rows), len(rows[0]), length), fill, fill.dtype)
    for i, row in enumerate(rows):
        for j, values in enumerate(row):
            padded[i, j, : len(values)] = values
    return padded
