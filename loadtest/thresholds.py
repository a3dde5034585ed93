"""What a load test must hold: read and checked before any load, so that a slip of the pen is told at once."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import yaml

from loadtest.errors import LoadError
from loadtest.summary import Summary

RATE = "rate"
FIGURES = [field.name for field in dataclasses.fields(Summary) if field.type in ("int", "float", "float | None")]


def read_thresholds(path: Path) -> dict[str, Any]:
    """The file's.

    Raises:
        LoadError: there is none, or it has what would not be judged.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LoadError(f"no thresholds in {path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not _is_number(found.get(RATE)):
        raise LoadError(f"no thresholds in {path}: its rate says up to how many requests a second they are judged")
    for name, limits in found.items():
        if name != RATE and name not in FIGURES:
            raise LoadError(f"{path}: no figure is called {name}, but {', '.join(FIGURES)}")
        if name != RATE and not _are_limits(limits):
            raise LoadError(f"{path}: {name} takes a number as min, max or both, not {limits}")
    return found


def _are_limits(limits: object) -> bool:
    return isinstance(limits, dict) and 0 < len(limits) == sum(
        bound in ("min", "max") and _is_number(limit) for bound, limit in limits.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
