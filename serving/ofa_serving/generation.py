"""How a caption is searched for: the checkpoint's defaults, and what a request may ask for instead.

Triton keeps the protocol's own parameters (priority, timeout, sequences) to itself, so whatever reaches a model is the
user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .contract import PARAMETERS, PRIORITY_CLASS, CaptionError, Code, Range

_DECIMAL = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_SHOWN = 40
"""Characters of a user's own value that a message repeats."""


@dataclass(frozen=True)
class GenerationConfig:
    """The settings of one caption's beam search; the defaults are ModelScope's.

    Nothing is checked here: :meth:`from_request` checks what users ask for.
    """

    beam_size: int = 5
    num_captions: int = 1  # the best so many of the beam_size hypotheses
    max_length: int = 16  # tokens, the end of sentence not counted
    min_length: int = 1
    no_repeat_ngram_size: int = 3  # 0: n-grams may repeat
    length_penalty: float = 1.0  # the exponent of the length by which a score is divided
    temperature: float = 1.0
    unk_penalty: float = 0.0

    @classmethod
    def from_request(cls, parameters: Mapping[str, object], defaults: GenerationConfig) -> GenerationConfig:
        """Take ``parameters`` of a request over ``defaults``.

        Values are numbers or decimal strings. A default gives way where the request leaves it no room: fewer beams
        than captions by default, or a maximum length under the default minimum.

        Raises:
            CaptionError: INVALID_PARAMETER, naming the parameter and its range.

        """
        asked = {name: _number(name, value) for name, value in parameters.items()}
        values = {**asdict(defaults), **asked}
        for name, bound in (("num_captions", "beam_size"), ("min_length", "max_length")):
            if values[name] > values[bound]:
                if name in asked:
                    at_most = f"{PARAMETERS[name].low:g} to {values[bound]}, the {bound}"
                    raise _invalid(f"{name} is {values[name]}; it must be {at_most}")
                values[name] = values[bound]
        return cls(**values)


def _number(name: str, value: object) -> int | float:
    known = PARAMETERS.get(name)
    if known is None:
        raise _invalid(
            f"{_shown(name)} is no parameter; there are {', '.join(PARAMETERS)}, {PRIORITY_CLASS} and timeout"
        )
    number = float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not _fits(number, known):
        kind = "a whole number" if known.kind is int else "a number"
        raise _invalid(f"{name} is {_shown(value)}; it must be {kind}, {known}")
    return known.kind(number)


def _fits(number: float, known: Range) -> bool:
    return number in known and (known.kind is float or number == int(number))


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _invalid(message: str) -> CaptionError:
    return CaptionError(Code.INVALID_PARAMETER, message)
