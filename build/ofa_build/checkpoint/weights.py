"""Weight files to named float32 tensors that fit a model. Nothing in a file is run."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..model import OFA
from ..model.config import OFAConfig
from .types import CheckpointError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a directory's weights can be, in the order in which ModelScope itself looks."""

_TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
"""Names that can share ``encoder.embed_tokens.weight``, and that some files then leave out."""

_SHOWN = 3
"""Names that a message lists before it only counts."""


def find_weights(directory: Path) -> list[Path]:
    """Give the weight files of a ModelScope or Hugging Face directory: one, or its shards in order."""
    for name in WEIGHT_FILES:
        path = directory / name
        if path.is_file():
            return _shards(path) if path.suffix == ".json" else [path]
    raise CheckpointError(f"the checkpoint has no weights: {', '.join(WEIGHT_FILES)} are all missing")


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

    Tensors, plain values and ``argparse.Namespace`` (in which fairseq keeps a model's arguments) are all it may hold.

    Raises:
        CheckpointError: if the file holds other objects, or is damaged.

    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path.name} is refused: {_reason(path)}") from error
    except Exception as error:  # a damaged archive raises many kinds
        raise CheckpointError(f"{path.name} is damaged or not a file of weights") from error


def sha256(paths: Iterable[Path]) -> str:
    """Give the hash of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fit_weights(state: Mapping[str, Tensor], config: OFAConfig) -> dict[str, Tensor]:
    """Give the weights of ``config``'s model by name, in float32, from a state dictionary that may hold more.

    Buffers that follow from the configuration are dropped, tied weights that a file stores once are filled in.

    Raises:
        CheckpointError: naming weights that are missing, not the model's, of another shape, or tied but different.

    """
    state = {name: tensor for name, tensor in state.items() if not is_derived(name)}
    with _WithoutMemory():
        expected = OFA(config).state_dict()
    _fill(state, expected, config)
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shaped = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    _refuse(missing, "lacks weights of the configured model", str)
    _refuse(unexpected, "has weights that the configured model has not", str)
    _refuse(
        shaped,
        "has weights of other shapes than the configured model",
        lambda name: f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}",
    )
    converted = {id(state[name]): _float32(state[name]) for name in expected}  # tied weights stay one tensor
    return {name: converted[id(state[name])] for name in expected}


def is_derived(name: str) -> bool:
    """Tell whether an entry follows from the configuration, or only says who wrote the file."""
    return name.endswith(("_rp_bucket", "image_position_idx", "_float_tensor")) or "version" in name


def _fill(state: dict[str, Tensor], expected: Mapping[str, Tensor], config: OFAConfig) -> None:
    embedding = state.get("encoder.embed_tokens.weight")
    for name in _TIED if config.share_decoder_input_output_embed else _TIED[:1]:
        if embedding is not None:
            if not torch.equal(state.get(name, embedding), embedding):
                raise CheckpointError(f"the weights {name} and encoder.embed_tokens.weight are tied, but they differ")
            state[name] = embedding
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):  # of use in training alone; some writers leave it out
            state.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))


def _refuse(names: list[str], what: str, describe: Callable[[str], str]) -> None:
    if names:
        listed = ", ".join(describe(name) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise CheckpointError(f"the checkpoint {what}: {listed}{more}")


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor


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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged or not a file of weights") from error


def _reason(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only archives can be looked into; a bare pickle cannot
        names = []
    names = [name for name in names if name != "argparse.Namespace"]
    return f"beside weights it holds {', '.join(names[:_SHOWN])}" if names else "it holds more than weights"


class _WithoutMemory(TorchFunctionMode):
    """Makes parameters that have a shape and nothing else; numbers computed on the way stay real."""

    _FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.tensor})

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in self._FACTORIES:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)
