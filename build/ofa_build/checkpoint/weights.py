"""Named tensors to the float32 weights of a model, which they must fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..model import OFA
from ..model.config import OFAConfig
from .types import CheckpointError

_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
"""Names that share one tensor (the last one only where the configuration says so), which some files store once."""

_SHOWN = 3
"""Names that a message lists before it only counts."""


def fit_weights(state: Mapping[str, Tensor], config: OFAConfig) -> dict[str, Tensor]:
    """Give the weights of ``config``'s model by name, in float32, from a state dictionary that may hold more.

    Buffers that follow from the configuration are dropped, tied weights that a file stores once are filled in.

    Raises:
        CheckpointError: naming weights that are missing, not the model's, of another shape, tied but different, or no
            finite numbers.

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
    weights = {name: converted[id(state[name])] for name in expected}
    _refuse(
        [name for name, tensor in weights.items() if not tensor.isfinite().all()],
        "has weights that are no finite numbers",
        str,
    )
    return weights


def is_derived(name: str) -> bool:
    """Tell whether an entry follows from the configuration, or only says who wrote the file."""
    return name.endswith(("_rp_bucket", "image_position_idx", "_float_tensor")) or "version" in name


def _fill(state: dict[str, Tensor], expected: Mapping[str, Tensor], config: OFAConfig) -> None:
    tied = _TIED if config.share_decoder_input_output_embed else _TIED[:-1]
    stored = [name for name in tied if name in state]
    for name in tied if stored else ():
        if not torch.equal(state.get(name, state[stored[0]]), state[stored[0]]):
            raise CheckpointError(f"the weights {name} and {stored[0]} are tied, but they differ")
        state[name] = state[stored[0]]
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
