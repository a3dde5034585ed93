"""The request parameters as keyword arguments, and as the strings that travel."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, TypedDict

from ofa_client import contract
from ofa_client.errors import InvalidParameterError


class SearchOptions(TypedDict, total=False):
    """How to search for the caption; what is left out, or None, is the checkpoint's default.

    The ranges are the server's to judge: a value outside raises :class:`~ofa_client.InvalidParameterError`.
    """

    beam_size: int | None
    """1 to 16 hypotheses kept at each step."""

    max_length: int | None
    """1 to 128 tokens."""

    min_length: int | None
    """0 to ``max_length`` tokens."""

    no_repeat_ngram_size: int | None
    """0 to 16; no sequence of that many tokens comes twice, 0 allows it."""

    length_penalty: float | None
    """0 to 5; above 1 prefers longer captions."""

    temperature: float | None
    """Above 0 to 10; above 1 evens the tokens' probabilities out."""

    unk_penalty: float | None
    """0 to 100, taken off the unknown token's log-probability."""

    priority_class: Literal["interactive", "batch"] | None
    """``batch`` gives way to ``interactive``, which is the default, where the server is full."""


def request_parameters(options: Mapping[str, object]) -> dict[str, str]:
    """Write options as strings, numbers as decimals: what every Triton client and both protocols carry alike.

    Raises:
        InvalidParameterError: an unknown name, or a value not of the option's kind.
    """
    return {name: _text(name, value) for name, value in options.items() if value is not None}


def _text(name: str, value: object) -> str:
    if name != contract.PRIORITY_CLASS:
        return _decimal(name, value)
    if value not in contract.PRIORITY_CLASSES:
        raise InvalidParameterError(f"{name} must be {' or '.join(contract.PRIORITY_CLASSES)}, not {value!r}")
    return str(value)


def _decimal(name: str, value: Any) -> str:
    if name not in contract.PARAMETERS:
        raise InvalidParameterError(
            f"{name} is not one of {', '.join((*contract.PARAMETERS, contract.PRIORITY_CLASS))}"
        )
    integer = name in contract.INTEGER_PARAMETERS
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        if integer:
            return str(operator.index(value))
        return format(Decimal(repr(float(value))), "f")
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if integer else "a number"
        raise InvalidParameterError(f"{name} must be {kind}, not {value!r}") from None
