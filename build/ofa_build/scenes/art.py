"""The objects' pictures in every style, as RGBA arrays of one size."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.sources import CACHE, FLUENT_FLAT, SOURCES

logger = logging.getLogger(__name__)

GLYPH_SIZE = 160
NOTO_PIXELS = 109
"""The one size the bitmap font holds."""
OUTLINE = 5
"""The width of an outline, in pixels of a drawing of ``GLYPH_SIZE``."""
_INK = (25, 22, 20)


def _trimmed(image: Image.Image) -> Image.Image:
    """Crop the drawing's transparent border and centre it in a square of ``GLYPH_SIZE``."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = GLYPH_SIZE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (GLYPH_SIZE, GLYPH_SIZE))
    square.paste(image, ((GLYPH_SIZE - image.width) // 2, (GLYPH_SIZE - image.height) // 2))
    return square


def _draw_noto(folder: Path, codepoint: int) -> Image.Image:
    font = ImageFont.truetype(next(folder.rglob("NotoColorEmoji.ttf")), NOTO_PIXELS)
    canvas = Image.new("RGBA", (2 * NOTO_PIXELS, 2 * NOTO_PIXELS))
    ImageDraw.Draw(canvas).text((20, 20), chr(codepoint), font=font, embedded_color=True)
    return canvas


def _file(folder: Path, stem: str, suffix: str) -> Path:
    """Find the file named by the code point, with or without the variation selector."""
    for name in (stem, f"{stem}-fe0f", f"{stem}-FE0F"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            return path
    raise FileNotFoundError(f"no drawing of U+{stem.upper()} in the package")


def _open_webp(folder: Path, codepoint: int) -> Image.Image:
    return Image.open(_file(folder / "package" / "assets", f"{codepoint:04x}", ".webp"))


def _rasterise(svg: str) -> Image.Image:
    import resvg_py  # noqa: PLC0415 - needed only where art is prepared

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=512))))


def _draw_svg_file(subfolder: str, pattern: str, folder: Path, codepoint: int) -> Image.Image:
    path = _file(folder / "package" / subfolder, pattern.format(codepoint), ".svg")
    return _rasterise(path.read_text(encoding="utf-8"))


def _draw_icon(folder: Path, codepoint: int) -> Image.Image:
    """Draw one of an Iconify set, which names its icons; only one of the sets tells its names' code points."""
    names = _read_json(FLUENT_FLAT.fetch(folder.parents[1]) / "package" / "chars.json")
    icons = _read_json(folder / "package" / "icons.json")
    name = names[f"{codepoint:x}"]
    icon = icons["icons"][icons.get("aliases", {}).get(name, {"parent": name})["parent"]]
    side = icon.get("width", icons["width"])
    return _rasterise(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{icon["body"]}</svg>')


@cache
def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


_READERS = {
    "noto": _draw_noto,
    "fluent": _open_webp,
    "twemoji": partial(_draw_svg_file, "dist/svg", "{:04x}"),
    "fluent-flat": _draw_icon,
    "blob": _draw_icon,
    "emojione": _draw_icon,
    "openmoji": partial(_draw_svg_file, "color/svg", "{:04X}"),
}


def load_style(style: str, cache: Path = CACHE) -> np.ndarray:
    """Load every object in ``style``: uint8 [objects, GLYPH_SIZE, GLYPH_SIZE, 4], in the order of ``OBJECTS``.

    What the style lacks is transparent.

    The first call fetches the style's package and keeps the drawings beside it.
    """
    source = SOURCES[style]
    stored = cache / f"{style}-{source.version}-{len(OBJECTS)}-{GLYPH_SIZE}.npy"
    if not stored.exists():
        folder = source.fetch(cache)
        glyphs = np.zeros((len(OBJECTS), GLYPH_SIZE, GLYPH_SIZE, 4), dtype=np.uint8)
        for index, item in enumerate(OBJECTS):
            if item.label not in source.lacks:
                glyphs[index] = _trimmed(_READERS[style](folder, item.codepoint))
        np.save(stored, glyphs)
        logger.info("drew %d objects in the %s style", len(glyphs), style)
    return np.load(stored)


class Art:
    """The drawings of several styles, each kept at the scales that were asked for."""

    def __init__(self, glyphs: Mapping[str, np.ndarray]) -> None:
        """``glyphs`` holds uint8 [objects, S, S, 4] by style."""
        self._glyphs = glyphs
        self._reduced: dict[tuple[str, int, int, bool], Image.Image] = {}

    @classmethod
    def load(cls, styles: Iterable[str], cache: Path = CACHE) -> Art:
        """Read, or on first use fetch, these styles."""
        return cls({style: load_style(style, cache) for style in styles})

    def glyph(self, style: str, index: int, least: float, outlined: bool = False) -> Image.Image:
        """Give a drawing of at least ``least`` pixels a side where it has them; premultiplied, mode ``RGBa``."""
        pixels = self._glyphs[style][index]
        factor = max(1, int(len(pixels) / least))
        key = style, index, factor, outlined
        if key not in self._reduced:
            drawing = Image.fromarray(pixels)
            self._reduced[key] = (_outlined(drawing) if outlined else drawing).convert("RGBa").reduce(factor)
        return self._reduced[key]


def _outlined(drawing: Image.Image) -> Image.Image:
    """Draw a dark line around: training in several hands reads a hand that outlines more easily."""
    inner = drawing.resize([side - 2 * OUTLINE for side in drawing.size], Image.Resampling.BICUBIC)
    padded = Image.new("RGBA", drawing.size)
    padded.paste(inner, (OUTLINE, OUTLINE))
    around = Image.new("RGBA", drawing.size, _INK)
    around.putalpha(padded.getchannel("A").filter(ImageFilter.MaxFilter(2 * OUTLINE + 1)))
    return Image.alpha_composite(around, padded)
