"""Which scenes belong to training and which are held out, by combination and not only by draw.

A pair of objects, or a number of one object, is held out by a stable hash of its name. Training and ``unseen`` scenes
show none of these; every ``heldout`` scene shows at least one. The three draw from separate random streams, so no scene
is in two of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from enum import IntEnum
from itertools import combinations

from ofa_build.scenes.objects import COUNT_WORDS, SceneObject
from ofa_build.scenes.scene import Placement, grouped

HELD_OUT_SHARE = 10
"""One pair in ten is held out, and for about three objects in ten one of their numbers."""


class Split(IntEnum):
    """The value numbers the random stream."""

    TRAIN = 0
    UNSEEN = 1
    HELDOUT = 2


def _bucket(name: str, buckets: int) -> int:
    return zlib.crc32(name.encode()) % buckets


def is_held_out_pair(one: SceneObject, other: SceneObject) -> bool:
    """Whether scenes with both belong to ``HELDOUT``. Colours count only between two of one noun."""
    same_noun = one.noun == other.noun
    names = sorted((one.label, other.label) if same_noun else (one.noun, other.noun))
    return _bucket("+".join(names), HELD_OUT_SHARE) == 0


def is_held_out_count(item: SceneObject, count: int) -> bool:
    """Whether scenes with ``count`` of ``item`` belong to ``HELDOUT``: at most one number of an object does."""
    numbers = sorted(COUNT_WORDS)
    chosen = _bucket(f"count of {item.label}", HELD_OUT_SHARE)
    return chosen < len(numbers) and count == numbers[chosen]


def has_held_out_combination(placements: Sequence[Placement]) -> bool:
    """Whether a layout shows a held-out pair or number."""
    groups = grouped(placements)
    items = [group.members[0].item for group in groups]
    if any(is_held_out_pair(one, other) for one, other in combinations(items, 2)):
        return True
    return any(is_held_out_count(item, len(group.members)) for item, group in zip(items, groups, strict=True))


def belongs(placements: Sequence[Placement], split: Split) -> bool:
    """Whether a layout may be drawn for ``split``."""
    return has_held_out_combination(placements) == (split is Split.HELDOUT)
