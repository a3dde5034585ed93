"""What users rely on: model names, tensors, request parameters and error codes. Every other file reads them here.

The public model takes ``image`` BYTES [1] (a file's bytes) and answers ``caption`` BYTES [n], ``score`` FP32 [n],
``tokens`` INT32 [n, T], ``token_logprobs`` FP32 [n, T] and ``timing_ms`` FP32 [k], best hypothesis first.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

DEFAULT_NAME = "ofa_caption"
"""The public model's name unless the checkpoint was built under another ``NAME``."""

STAGES = ("preprocess_queue", "preprocess", "encode", "search_queue", "search")
"""What ``timing_ms`` holds, in the pipeline's order. ``encode`` includes the wait for the encoder."""


class Tensor(StrEnum):
    """Tensor names, public (the first six) and between the stages."""

    IMAGE = "image"
    CAPTION = "caption"
    SCORE = "score"
    TOKENS = "tokens"
    TOKEN_LOGPROBS = "token_logprobs"
    TIMING = "timing_ms"

    PIXELS = "pixels"  # UINT8 [S, S, 3], RGB
    PREPROCESS_MS = "preprocess_ms"  # FP32 [1]
    HIDDEN = "hidden"  # FP32 or, in that precision, FP16 [N, d], the encoder's last states
    SEARCH_MS = "search_ms"  # FP32 [2]: waited, searched


class Code(StrEnum):
    """The stable first word of every error message."""

    EMPTY_IMAGE = "EMPTY_IMAGE"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    TRUNCATED_IMAGE = "TRUNCATED_IMAGE"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    INVALID_PARAMETER = "INVALID_PARAMETER"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    INTERNAL = "INTERNAL"


class CaptionError(Exception):
    """A refusal the user is told of: ``str(error)`` is ``"CODE: sentence"`` and shows no path or internal name."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Fault(CaptionError):
    """The refusal of a request that failed by the server's fault: a new id, under which the log is to have the rest."""

    def __init__(self) -> None:
        self.number = uuid.uuid4().hex[:12]
        super().__init__(Code.INTERNAL, f"the request failed inside the server (error {self.number})")


def late() -> CaptionError:
    """The refusal of a request whose time has passed."""
    return CaptionError(Code.DEADLINE_EXCEEDED, "the deadline passed before the caption was complete")


STATES_ON_GPU = "states_on_gpu"
"""The configurations' parameter, where it is set, that has the encoder's states handed to the search on the GPU."""


@dataclass(frozen=True)
class Names:
    """The models of one served checkpoint: ``ofa_caption`` stands over ``ofa_preprocess`` and so on."""

    ENDINGS: ClassVar = ("_preprocess", "_encoder", "_beam_search")
    """Those of its stages, which no public model's name may have."""

    public: str = DEFAULT_NAME

    def _stage(self, number: int) -> str:
        return self.public.removesuffix("_caption") + self.ENDINGS[number]

    @property
    def models(self) -> tuple[str, str, str, str]:
        """All of them, in the order a request meets them."""
        return self.public, self.preprocess, self.encoder, self.beam_search

    @property
    def preprocess(self) -> str:
        """The Python model that decodes, orients and resizes."""
        return self._stage(0)

    @property
    def encoder(self) -> str:
        """The model with the encoder's engine."""
        return self._stage(1)

    @property
    def beam_search(self) -> str:
        """The Python model with the in-flight batched beam search."""
        return self._stage(2)


@dataclass(frozen=True)
class Range:
    """A request parameter's values: ``low`` to ``high``, ``low`` itself excluded where ``above_low``."""

    kind: type
    low: float
    high: float
    above_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above ' if self.above_low else ''}{self.low:g} to {self.high:g}"


MAX_LENGTH = 128
"""Tokens in a caption at most, its end of sentence not counted."""

PARAMETERS = {
    "beam_size": Range(int, 1, 16),
    "num_captions": Range(int, 1, 16),  # and at most beam_size
    "max_length": Range(int, 1, MAX_LENGTH),
    "min_length": Range(int, 0, MAX_LENGTH),  # and at most max_length
    "no_repeat_ngram_size": Range(int, 0, 16),
    "length_penalty": Range(float, 0, 5),
    "temperature": Range(float, 0, 10, above_low=True),
    "unk_penalty": Range(float, 0, 100),
}
"""The optional request parameters; defaults come from the checkpoint."""

PRIORITY_CLASS = "priority_class"
"""The optional request parameter that says who waits: ``interactive``, which it is without, or ``batch``.

Triton keeps its own parameter ``priority`` to itself.
"""
