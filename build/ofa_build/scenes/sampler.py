"""Draws scenes: which objects, how many, where, on what. Deterministic from the split, the seed and the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from ofa_build.scenes.objects import OBJECTS, SceneObject
from ofa_build.scenes.scene import (
    MAX_OBJECTS,
    Background,
    Collage,
    Placement,
    Scene,
    describe_placements,
    grouped,
    in_front,
)
from ofa_build.scenes.sources import SOURCES, TRAINING_STYLES
from ofa_build.scenes.splits import Split, belongs

BACKGROUND_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "grey")
PATTERNS = ("gradient", "noise", "texture")

_COLOURED_WEIGHT = 0.6  # twenty-seven hearts, circles and squares would otherwise be a third of everything
_WEIGHTS = np.array([_COLOURED_WEIGHT if item.colour else 1.0 for item in OBJECTS])
_WEIGHTS /= _WEIGHTS.sum()

_GROUP_SIZES = {1: (0.35, 0.85), 2: (0.28, 0.5), 3: (0.24, 0.38), 4: (0.22, 0.34)}
"""Object sizes by the number of objects in the picture."""

OUTLINED_SHARE = 0.25
"""How many training pictures have their objects outlined, which no style of training does and others do."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class SceneSampler:
    """The scenes of one split.

    Attributes:
        split: which combinations they show.
        seed: of the stream.
        styles: the hands that draw the objects.
        hard_share: of all scenes, how many are hard for certain: what a small model gets wrong, it needs to see more.
    """

    split: Split
    seed: int = 0
    styles: Sequence[str] = TRAINING_STYLES
    hard_share: float = 0.0

    def __call__(self, index: int) -> Scene:
        """Scene number ``index``; equal arguments give an equal scene."""
        rng = np.random.default_rng((int(self.split), self.seed, index))
        only_hard = self.hard_share > 0 and rng.random() < self.hard_share
        while True:
            placements = _KINDS[rng.choice(len(_KINDS), p=_KIND_WEIGHTS)](rng)
            if placements is None or describe_placements(placements) is None or not belongs(placements, self.split):
                continue
            if not all(_having(place.item, self.styles) for place in placements):
                continue
            if only_hard and not is_hard(placements):
                continue
            placements = _vary(rng, placements, self.styles)
            if self.split is Split.TRAIN:
                placements = _outline(rng, placements)
            return Scene(placements, _draw_background(rng, {item.item.tint for item in placements}), _draw_aspect(rng))


@dataclass(frozen=True)
class CollageSampler:
    """Collages, numbered like scenes: a jittered grid of any objects."""

    seed: int = 0
    styles: Sequence[str] = TRAINING_STYLES

    def __call__(self, index: int) -> Collage:
        """Collage number ``index``; equal arguments give an equal collage."""
        rng = np.random.default_rng((len(Split), self.seed, index))
        side = int(rng.choice([2, 3, 4], p=[0.3, 0.5, 0.2]))
        objects = rng.choice(len(OBJECTS), size=side * side)
        spots = (np.indices((side, side)).reshape(2, -1).T + 0.5) / side
        spots = rng.permutation(spots) + rng.uniform(-0.25, 0.25, spots.shape) / side
        sizes = rng.uniform(0.85, 1.4, len(spots)) / side
        bare = [
            Placement(int(number), "", float(x), float(y), float(size))
            for number, (x, y), size in zip(objects, spots, sizes, strict=True)
        ]
        dressed = _outline(rng, _vary(rng, bare, self.styles, mixed_share=1.0))
        return Collage(dressed, _draw_background(rng, set()), _draw_aspect(rng))


def is_hard(placements: Sequence[Placement]) -> bool:
    """Tell whether a layout has two groups, of which one counts more than one or covers the other in part."""
    groups = grouped(placements)
    return len(groups) == 2 and (len(placements) > 2 or any(in_front(*pair) for pair in permutations(groups)))


def _draw_aspect(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(-0.3, 0.3))) if rng.random() < 0.5 else 1.0


def _draw_objects(rng: np.random.Generator, count: int) -> list[int]:
    """``count`` different objects; now and then two of one noun in different colours."""
    first = int(rng.choice(len(OBJECTS), p=_WEIGHTS))
    if count == 2 and OBJECTS[first].colour and rng.random() < 0.3:
        siblings = [i for i, item in enumerate(OBJECTS) if item.noun == OBJECTS[first].noun and i != first]
        return [first, int(rng.choice(siblings))]
    rest = rng.choice(len(OBJECTS), size=count - 1, replace=False, p=_without(first))
    return [first, *(int(index) for index in rest)]


def _without(index: int) -> np.ndarray:
    weights = _WEIGHTS.copy()
    weights[index] = 0
    return weights / weights.sum()


def _scatter(
    rng: np.random.Generator, what: tuple[int, int], box: Box, size: float, taken: Sequence[Placement] = ()
) -> list[Placement] | None:
    """Place ``what`` (an object and its count) at about ``size`` in ``box``, hardly overlapping, or give ``None``."""
    object_index, count = what
    placed: list[Placement] = []
    for _ in range(40 * count):
        own = size * rng.uniform(0.87, 1.15)
        left, top, right, bottom = box[0] + own / 2, box[1] + own / 2, box[2] - own / 2, box[3] - own / 2
        if left > right or top > bottom:
            return None
        spot = Placement(object_index, "", rng.uniform(left, right), rng.uniform(top, bottom), own)
        if all(_apart(spot, other) for other in (*placed, *taken)):
            placed.append(spot)
            if len(placed) == count:
                return placed
    return None


def _apart(one: Placement, other: Placement) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) >= 0.87 * (one.size + other.size) / 2


def _one_group(rng: np.random.Generator) -> list[Placement] | None:
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    size = rng.uniform(*_GROUP_SIZES[count])
    return _scatter(rng, (_draw_objects(rng, 1)[0], count), (0, 0, 1, 1), size)


def _two_groups(rng: np.random.Generator) -> list[Placement] | None:
    """Side by side or one above the other; the grammar decides which, and refuses what is neither."""
    first, second = _draw_objects(rng, 2)
    counts = [(1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1)][rng.integers(7)]
    size = rng.uniform(*_GROUP_SIZES[sum(counts)])
    split = rng.uniform(0.35, 0.65)
    if rng.random() < 0.5:
        boxes: tuple[Box, Box] = ((0, 0, split, 1), (split, 0, 1, 1))
    else:
        boxes = ((0, 0, 1, split), (0, split, 1, 1))
    upper = _scatter(rng, (first, counts[0]), boxes[0], size)
    lower = upper and _scatter(rng, (second, counts[1]), boxes[1], size, upper)
    return [*upper, *lower] if upper and lower else None


def _in_front(rng: np.random.Generator) -> list[Placement]:
    front, back = _draw_objects(rng, 2)
    large = rng.uniform(0.62, 0.9)
    x, y = (rng.uniform(large / 2, 1 - large / 2) for _ in range(2))
    small = rng.uniform(0.25, min(0.4, large / 1.9))
    near = Placement(front, "", x + rng.uniform(-0.3, 0.3) * large, y + rng.uniform(0.05, 0.35) * large, small)
    return [Placement(back, "", x, y, large), near]


def _between(rng: np.random.Generator) -> list[Placement] | None:
    size = rng.uniform(0.22, 0.33)
    row = rng.uniform(size / 2 + 0.05, 0.95 - size / 2)
    edges = np.array([0.0, 1 / 3, 2 / 3, 1.0]) + rng.uniform(-0.03, 0.03, 4).clip([0, -1, -1, -1], [1, 1, 1, 0])
    placed = []
    for index, left, right in zip(_draw_objects(rng, 3), edges[:-1], edges[1:], strict=True):
        own = min(size * rng.uniform(0.87, 1.15), 0.98 * (right - left))
        x = rng.uniform(left + own / 2, right - own / 2)
        placed.append(Placement(index, "", x, row + rng.uniform(-0.06, 0.06), own))
    return placed


_KINDS = (_one_group, _two_groups, _in_front, _between)
_KIND_WEIGHTS = (0.3, 0.45, 0.1, 0.15)


def _vary(
    rng: np.random.Generator, placements: Sequence[Placement], styles: Sequence[str], mixed_share: float = 0.3
) -> tuple[Placement, ...]:
    """Dresses bare places: a style for the scene or for each object, a small turn, a mirror, a lightness."""
    mixed = rng.random() < mixed_share
    common = styles[rng.integers(len(styles))]
    return tuple(
        Placement(
            place.object_index,
            _style(rng, place.item, styles, None if mixed else common),
            place.x,
            place.y,
            place.size,
            angle=float(rng.uniform(-18, 18)),
            mirrored=bool(rng.random() < 0.5),
            lightness=float(rng.uniform(0.8, 1.15)),
        )
        for place in placements
    )


def _style(rng: np.random.Generator, item: SceneObject, styles: Sequence[str], wanted: str | None) -> str:
    """Give the wanted style, or draw one, of those that have the object."""
    having = _having(item, styles)
    return wanted if wanted in having else having[rng.integers(len(having))]


def _having(item: SceneObject, styles: Sequence[str]) -> list[str]:
    """Give the styles that draw the object: a scene in one style alone may have to do without it."""
    return [style for style in styles if item.label not in SOURCES[style].lacks]


def _outline(rng: np.random.Generator, placements: Sequence[Placement]) -> tuple[Placement, ...]:
    outlined = bool(rng.random() < OUTLINED_SHARE)
    return tuple(replace(place, outlined=outlined) for place in placements)


def _draw_background(rng: np.random.Generator, tints: set[str]) -> Background:
    colours = [colour for colour in BACKGROUND_COLOURS if colour not in tints]
    seed = int(rng.integers(2**31))
    if rng.random() < 0.5:
        return Background("plain", (colours[rng.integers(len(colours))],), seed)
    pair = rng.choice(len(colours), size=2, replace=False)
    return Background(PATTERNS[rng.integers(len(PATTERNS))], tuple(colours[i] for i in pair), seed)
