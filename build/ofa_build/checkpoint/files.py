"""Weight files: where they lie, what they hash to, and the tensors in them. Nothing in a file is run."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .types import CheckpointError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a directory's weights can be, in the order in which ModelScope itself looks."""

_SHOWN = 3
"""Names that a message lists."""

_LFS_POINTER = b"version https://git-lfs"
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


def find_weights(directory: Path) -> list[Path]:
    """Give the weight files of a ModelScope or Hugging Face directory: one, or its shards in order."""
    for name in WEIGHT_FILES:
        path = directory / name
        if path.is_file():
            return _shards(path) if path.suffix == ".json" else [path]
    raise CheckpointError(f"the checkpoint has no weights: {', '.join(WEIGHT_FILES)} are all missing")


def sha256(paths: Iterable[Path], expected: str | None = None) -> str:
    """Give the hash of the files' bytes, one after the other. It comes first: a file that is not the one is not read.

    Raises:
        CheckpointError: if it is not the ``expected`` one, or a file shows at its start that it holds no weights.

    """
    digest = hashlib.sha256()
    for path in paths:
        with _open(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    if expected is not None and digest.hexdigest() != expected.lower():
        raise CheckpointError(f"the weights hash to {digest.hexdigest()}, not to what was asked for")
    return digest.hexdigest()


def read_weights(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Read one checkpoint's weight files into one dictionary of tensors."""
    state: dict[str, Tensor] = {}
    for path in paths:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
        if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(f"{path.name} holds something else than named tensors")
        state.update(content)
    return state


def read_pickle(path: Path) -> Any:
    """Read a file of ``torch.save`` without running code from it.

    Tensors, plain values, numpy's numbers (as Python's) and ``argparse.Namespace`` (in which fairseq keeps a model's
    arguments) are all it may hold.

    Raises:
        CheckpointError: if the file holds other objects, is damaged, or cannot be read.

    """
    with torch.serialization.safe_globals(_PLAIN):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path.name} is refused: {_reason(path)}") from error
        except Exception as error:  # a damaged archive raises many kinds
            raise _unreadable(path, error) from error


class _NumberType:
    """A number's numpy type, from a pickle's words for it: numpy's own reader of them trusts whatever they say."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufc":
            raise pickle.UnpicklingError(f"numpy's type {code!r} is no number's")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _number(kind: _NumberType, data: bytes) -> Any:
    return np.frombuffer(data, kind.dtype, 1)[0].item()


_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_PLAIN = [argparse.Namespace, (_NumberType, "numpy.dtype"), *((_number, name) for name in _SCALARS)]
"""What a pickle may hold beside what torch itself allows; numpy 1 and 2 have different names for the same function."""


def _open(path: Path) -> BinaryIO:
    """Open a file that is to hold weights, or say why it does not where its first bytes show it."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    start = file.peek(64).lstrip().lower()
    if not start.startswith((_LFS_POINTER, *_WEB_PAGE)):
        return file
    file.close()
    if start.startswith(_LFS_POINTER):
        raise CheckpointError(f"{path.name} is Git LFS's pointer to the weights: fetch them with git lfs pull")
    raise CheckpointError(f"{path.name} is a web page, not weights: download the file itself")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's own kind is a plain RuntimeError
        return CheckpointError(f"{path.name} does not fit into this machine's memory")
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(f"{path.name} cannot be read: {error.strerror}")
    return CheckpointError(f"{path.name} is damaged or not a file of weights")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # of safetensors for a damaged file, of torch and the system for what they lack
        raise _unreadable(path, error) from error


def _reason(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only archives can be looked into; a bare pickle cannot
        names = []
    if names:
        return f"beside weights it holds {', '.join(sorted(names)[:_SHOWN])}"
    return "it holds more than weights, or something else"


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is not an index of weight files") from error
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index.name} names a file outside the checkpoint")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"the weight file {name} is missing")
    return [index.parent / name for name in names]
