"""Draws a scene at any size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from ofa_build.scenes.art import Art
from ofa_build.scenes.backgrounds import draw_background
from ofa_build.scenes.scene import Collage, Placement, Scene

SPARE = 1.4
"""How many times the final size a drawing keeps while it is turned: less is faster and less sharp."""
OPAQUE_SHARE = 0.35
CLEAR_SHARE = 0.12
IGNORED = -100
"""The class of a cell that an object covers only in part; torch's cross-entropy ignores it."""


@lru_cache(maxsize=256)
def _lightness_table(percent: int) -> list[int]:
    """Make a lookup table over red, green and blue that leaves alpha alone."""
    return [min(255, value * percent // 100) for value in range(256)] * 3 + list(range(256))


def _draw_object(place: Placement, art: Art, width: int, height: int, aspect: float) -> Image.Image:
    """Turn and scale the object (RGBA) for a canvas whose content has ``aspect``."""
    least = SPARE * place.size * max(width, height)
    image = art.glyph(place.style, place.object_index, least, place.outlined)
    if place.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = image.width
    image = image.rotate(place.angle, Image.Resampling.BILINEAR, expand=True)
    across = place.size * width * image.width / side / aspect**0.5
    down = place.size * height * image.height / side * aspect**0.5
    image = image.resize((max(1, round(across)), max(1, round(down))), Image.Resampling.BICUBIC).convert("RGBA")
    return image.point(_lightness_table(round(100 * place.lightness)))


def render(scene: Scene | Collage, art: Art, width: int, height: int) -> tuple[Image.Image, list[Image.Image]]:
    """Draw the picture, and for each placement its mask ('L', the picture's size), in drawing order.

    A picture whose sides do not have the scene's ``aspect`` is what resizing one that does would give.
    """
    picture = draw_background(scene.background, width, height)
    masks = []
    for place in scene.placements:
        drawn = _draw_object(place, art, width, height, scene.aspect)
        corner = round(place.x * width - drawn.width / 2), round(place.y * height - drawn.height / 2)
        picture.paste(drawn, corner, drawn)
        mask = Image.new("L", picture.size)
        mask.paste(drawn.getchannel("A"), corner)
        masks.append(mask)
    return picture, masks


def natural_size(scene: Scene, longer_side: int) -> tuple[int, int]:
    """Give the width and height, in pixels, at which the scene's objects have their own proportions."""
    if scene.aspect >= 1:
        return longer_side, round(longer_side / scene.aspect)
    return round(longer_side * scene.aspect), longer_side


def cell_classes(scene: Scene | Collage, masks: list[Image.Image], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell what ``cells`` x ``cells`` show: class int64 (0 nothing, 1 + object index) and centre float32 (0 or 1).

    The classes teach the image encoder where each object is; ``IGNORED`` marks the objects' borders.
    """
    cover = np.zeros((len(masks) + 1, cells, cells), dtype=np.float32)
    for number, mask in enumerate(masks):
        share = np.asarray(mask.resize((cells, cells), Image.Resampling.BOX), dtype=np.float32) / 255
        cover[1 : number + 1] *= 1 - share
        cover[number + 1] = share
    classes = np.full((cells, cells), IGNORED, dtype=np.int64)
    indices = np.array([0, *(place.object_index + 1 for place in scene.placements)])
    best = cover.argmax(axis=0)
    classes = np.where(cover.max(axis=0) >= OPAQUE_SHARE, indices[best], classes)
    classes = np.where(cover.sum(axis=0) <= CLEAR_SHARE, 0, classes)
    centres = np.zeros((cells, cells), dtype=np.float32)
    for place in scene.placements:
        centres[min(cells - 1, int(place.y * cells)), min(cells - 1, int(place.x * cells))] = 1
    return classes, centres
