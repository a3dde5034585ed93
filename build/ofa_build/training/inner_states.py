"""What happens inside a model, recorded while it runs: attention weights and layers' states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ..model import OFA, OFAConfig

SIDES = ("encoder", "decoder")
"""A layer's own attention: of the image and prompt, or of the caption so far."""

Place = tuple[str, int]
"""A side and the number of its layer."""


@dataclass(frozen=True)
class Pair:
    """A teacher's layer and the student's that learns from it, on one side."""

    side: str
    teacher: int
    student: int


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """Read ``encoder:0-0,1-1;decoder:3-1``: teacher's layer, student's layer.

    Raises:
        ValueError: for anything else.

    """
    pairs = []
    for part in filter(None, text.split(";")):
        side, colon, layers = part.partition(":")
        if side not in SIDES or not colon:
            raise ValueError(f"{part!r} does not begin with encoder: or decoder:")
        for layer in layers.split(","):
            numbers = layer.split("-")
            if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
                raise ValueError(f"{layer!r} is no pair of a teacher's and a student's layer, such as 0-0")
            pairs.append(Pair(side, *map(int, numbers)))
    return tuple(pairs)


def matching_layers(teacher: OFAConfig, student: OFAConfig) -> tuple[Pair, ...]:
    """Pair layer i with layer i, on both sides, as far as the student goes: the published map."""
    return tuple(
        Pair(side, layer, layer)
        for side in SIDES
        for layer in range(min(getattr(one, f"{side}_layers") for one in (teacher, student)))
    )


@contextmanager
def recording(model: OFA, attention: Iterable[Place], hidden: Iterable[Place]) -> Iterator[Recorded]:
    """Record attention weights, summed over heads, [B, T, T], and states after layers, [B, T, d], of the next runs."""
    recorded = Recorded({}, {})
    handles = []
    for side, layer in attention:
        # The dropout's input is the softmax, whatever it then drops.
        module = getattr(model, side).layers[layer].self_attn.dropout
        handles.append(module.register_forward_hook(_keep_input(recorded.attention, (side, layer))))
    for side, layer in hidden:
        module = getattr(model, side).layers[layer]
        handles.append(module.register_forward_hook(_keep_output(recorded.hidden, (side, layer))))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Recorded:
    """What was seen in the last run."""

    attention: dict[Place, Tensor]
    hidden: dict[Place, Tensor]


def _keep_input(into: dict[Place, Tensor], place: Place) -> object:
    def keep(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        into[place] = inputs[0].float().sum(1)

    return keep


def _keep_output(into: dict[Place, Tensor], place: Place) -> object:
    def keep(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        into[place] = output.float()

    return keep
