"""What a caller gets back, and how it is read from the server's tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ofa_client import contract
from ofa_client.errors import UnexpectedResponseError


@dataclass(frozen=True)
class Caption:
    """One caption of one image; the last three fields are filled for ``details=True``."""

    text: str
    score: float
    """Log-probability / length^length_penalty; nearer to 0 is better."""

    tokens: tuple[int, ...] | None = None
    """The checkpoint's token ids, without padding."""

    token_logprobs: tuple[float, ...] | None = None
    """One log-probability a token."""

    timing_ms: Mapping[str, float] | None = field(default=None, hash=False)
    """Milliseconds per stage of the request, the same for all its captions."""


def requested_outputs(details: bool) -> tuple[str, ...]:
    """Name the tensors to ask for; the server does not compute what nobody asks for."""
    usual = (contract.CAPTION, contract.SCORE)
    return (*usual, contract.TOKENS, contract.TOKEN_LOGPROBS, contract.TIMING) if details else usual


def read_captions(tensors: Mapping[str, np.ndarray], details: bool) -> list[Caption]:
    """Read the answer to one image: ``caption`` and ``score`` [1, n], and for ``details`` the other outputs.

    A score of minus infinity stands where the search found fewer captions than were asked for; those are left out.

    Raises:
        UnexpectedResponseError: a tensor has another shape or content than the contract says.
    """
    try:
        texts = [_text(text) for text in _row(tensors, contract.CAPTION, 1)]
        scores = _row(tensors, contract.SCORE, 1).astype(float)
        if len(scores) != len(texts) or np.isnan(scores).any():
            raise ValueError(f"{len(texts)} captions with the scores {scores.tolist()}")
        captions = _detailed(texts, scores, tensors) if details else list(map(Caption, texts, scores.tolist()))
    except (ValueError, TypeError, AttributeError) as error:
        raise UnexpectedResponseError(f"the answer does not follow the contract ({error})") from error
    found = [caption for caption in captions if math.isfinite(caption.score)]
    if not found:
        raise UnexpectedResponseError("the answer has no caption")
    return found


def _text(value: bytes | str) -> str:
    """Decode a BYTES element; servers without the binary-tensor extension answer in JSON, with texts."""
    return value if isinstance(value, str) else value.decode("utf-8")


def _row(tensors: Mapping[str, np.ndarray], name: str, dimensions: int) -> np.ndarray:
    """Take the only batch element of a tensor that has ``dimensions`` besides the batch."""
    tensor = tensors[name]
    if tensor.ndim != dimensions + 1 or tensor.shape[0] != 1:
        raise ValueError(f"{name} has the shape {list(tensor.shape)}")
    row: np.ndarray = tensor[0]
    return row


def _detailed(texts: list[str], scores: np.ndarray, tensors: Mapping[str, np.ndarray]) -> list[Caption]:
    tokens = _row(tensors, contract.TOKENS, 2)
    logprobs = _row(tensors, contract.TOKEN_LOGPROBS, 2)
    timing = _row(tensors, contract.TIMING, 1)
    if tokens.shape != logprobs.shape or len(tokens) != len(texts) or len(timing) != len(contract.STAGES):
        raise ValueError(f"tokens {tokens.shape}, token_logprobs {logprobs.shape}, timing_ms {timing.shape}")
    timing_ms = dict(zip(contract.STAGES, timing.astype(float).tolist()))
    captions = []
    for text, score, row, row_logprobs in zip(texts, scores.tolist(), tokens, logprobs):
        real = row != contract.PAD
        logprob_list = row_logprobs[real].astype(float).tolist()
        captions.append(Caption(text, score, tuple(row[real].tolist()), tuple(logprob_list), timing_ms))
    return captions
