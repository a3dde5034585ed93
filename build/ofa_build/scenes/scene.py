"""A scene as data, and the one caption that its geometry determines.

Coordinates run from 0 to 1 across the picture, both ways, from the upper left; an object's ``size`` is the longer side
of its art against the picture's mean side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ofa_build.scenes.objects import COUNT_WORDS, OBJECTS, SceneObject, with_article

MAX_OBJECTS = max(COUNT_WORDS)
CLEAR_GAP = 0.55
"""How far apart, in mean sizes, any two objects of a left-of, above or between scene lie along its axis."""
AXIS_RATIO = 0.5
"""The groups' centres may be displaced across the axis by at most this share of the displacement along it."""
FRONT_RATIO = 1.8
"""How many times larger the object behind is than the one in front of it."""


@dataclass(frozen=True)
class Placement:
    """One object in the picture."""

    object_index: int
    style: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    mirrored: bool = False
    lightness: float = 1.0
    outlined: bool = False

    @property
    def item(self) -> SceneObject:
        """What is shown."""
        return OBJECTS[self.object_index]


@dataclass(frozen=True)
class Background:
    """What lies behind: one plain colour, which the caption names, or a pattern of two, which it does not.

    ``seed`` draws the pattern's details.
    """

    kind: str
    colours: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture's whole content. ``aspect`` is its width over its height; placements are drawn in their order."""

    placements: tuple[Placement, ...]
    background: Background
    aspect: float = 1.0
    caption: str = field(init=False)

    def __post_init__(self) -> None:
        relation = describe_placements(self.placements)
        if relation is None:
            raise ValueError("the layout is ambiguous: no relation of the grammar holds with its margin")
        if self.background.kind == "plain":
            relation += f" on {with_article(f'{self.background.colours[0]} background')}"
        object.__setattr__(self, "caption", relation)


@dataclass(frozen=True)
class Collage:
    """A picture crowded with objects and without a caption: it teaches an image encoder their looks faster."""

    placements: tuple[Placement, ...]
    background: Background
    aspect: float = 1.0


@dataclass(frozen=True)
class Group:
    """All placements of one object."""

    members: tuple[Placement, ...]

    @property
    def phrase(self) -> str:
        """``"two red apples"``."""
        return self.members[0].item.phrase(len(self.members))

    @property
    def centre(self) -> tuple[float, float]:
        """The mean of the members' places."""
        count = len(self.members)
        return sum(member.x for member in self.members) / count, sum(member.y for member in self.members) / count


def grouped(placements: Sequence[Placement]) -> list[Group]:
    """Group the placements by object."""
    members: dict[int, list[Placement]] = {}
    for placement in placements:
        members.setdefault(placement.object_index, []).append(placement)
    return [Group(tuple(group)) for group in members.values()]


def in_front(small: Group, large: Group) -> bool:
    """Whether one object lies clearly within another, larger one."""
    if len(small.members) != 1 or len(large.members) != 1:
        return False
    front, back = small.members[0], large.members[0]
    inside = max(abs(front.x - back.x), abs(front.y - back.y)) <= 0.4 * back.size
    return inside and back.size >= FRONT_RATIO * front.size


def _precedes(first: Group, second: Group, axis: str) -> bool:
    """Whether ``first`` lies clearly before ``second`` along ``axis`` (``"x"`` or ``"y"``)."""
    for one in first.members:
        for other in second.members:
            if getattr(other, axis) - getattr(one, axis) < CLEAR_GAP * (one.size + other.size) / 2:
                return False
    dx, dy = (abs(a - b) for a, b in zip(first.centre, second.centre, strict=True))
    return dy <= AXIS_RATIO * dx if axis == "x" else dx <= AXIS_RATIO * dy


def _describe_two(groups: Sequence[Group]) -> str | None:
    for first, second in (groups, groups[::-1]):
        if in_front(first, second):
            return f"{first.phrase} in front of {second.phrase}"
        if _precedes(first, second, "x"):
            return f"{first.phrase} to the left of {second.phrase}"
        if _precedes(first, second, "y"):
            return f"{first.phrase} above {second.phrase}"
    return None


def _describe_three(groups: Sequence[Group]) -> str | None:
    left, middle, right = sorted(groups, key=lambda group: group.centre[0])
    if not (_precedes(left, middle, "x") and _precedes(middle, right, "x")):
        return None
    if any(len(group.members) != 1 for group in groups):
        return None
    return f"{middle.phrase} between {left.phrase} and {right.phrase}"


def describe_placements(placements: Sequence[Placement]) -> str | None:
    """Caption these placements without the background, or give ``None`` where the layout is not clear-cut.

    Left comes before right, upper before lower, front before back, and the middle one before its neighbours, so each
    clear layout has exactly one caption.
    """
    groups = grouped(placements)
    if not 1 <= len(placements) <= MAX_OBJECTS:
        return None
    if len(groups) == 1:
        return groups[0].phrase
    if len(groups) == 2:
        return _describe_two(groups)
    if len(groups) == 3:
        return _describe_three(groups)
    return None
