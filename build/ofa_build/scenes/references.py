"""Five wordings of one scene, as COCO has five captions of one photograph: CIDEr means little with a single one."""

from __future__ import annotations

import re

_BACKGROUND = re.compile(r"(?P<scene>.*) on (?P<background>an? (?P<colour>\w+) background)")
_RELATIONS = {
    " to the left of ": ("{b} to the right of {a}", "{a} and {b} side by side", "{a} next to {b}", "{a} left of {b}"),
    " above ": ("{b} below {a}", "{a} over {b}", "{b} underneath {a}", "{a} higher than {b}"),
    " in front of ": ("{b} behind {a}", "{a} before {b}", "{a} with {b} behind", "{b} partly covered by {a}"),
}
_BETWEEN = re.compile(r"(?P<a>.*) between (?P<b>.*) and (?P<c>.*)")
_IN_BETWEEN = (
    "{b} and {c} around {a}",
    "{b} {a} and {c} in a row",
    "{a} with {b} and {c} beside",
    "{a} amid {b} and {c}",
)
_ALONE = ("nothing but {a}", "a picture of {a}", "{a} alone", "{a} can be seen")
_ON = ("with {background}", "against {background}", "on {colour}", "before {background}")


def references(caption: str) -> tuple[str, ...]:
    """Give the scene's own caption and four other wordings, all different."""
    background = _BACKGROUND.fullmatch(caption)
    scene = background["scene"] if background else caption
    others = _reworded(scene)
    if background:
        others = [f"{text} {on.format(**background.groupdict())}" for text, on in zip(others, _ON, strict=True)]
    return caption, *others


def _reworded(scene: str) -> list[str]:
    between = _BETWEEN.fullmatch(scene)
    if between:
        return [form.format(**between.groupdict()) for form in _IN_BETWEEN]
    for relation, forms in _RELATIONS.items():
        first, found, second = scene.partition(relation)
        if found:
            return [form.format(a=first, b=second) for form in forms]
    return [form.format(a=scene) for form in _ALONE]
