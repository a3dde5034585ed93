"""The objects' pictures in every style, as RGBA arrays of one size."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.sources import CACHE, SOURCES

logger = logging.getLogger(__name__)

GLYPH_SIZE = 160
NOTO_PIXELS = 109
"""The one size the bitmap font holds."""


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


def _rasterise(subfolder: str, pattern: str, folder: Path, codepoint: int) -> Image.Image:
    import resvg_py  # noqa: PLC0415 - needed only where art is prepared

    path = _file(folder / "package" / subfolder, pattern.format(codepoint), ".svg")
    png = resvg_py.svg_to_bytes(svg_string=path.read_text(encoding="utf-8"), width=512)
    return Image.open(io.BytesIO(bytes(png)))


_READERS = {
    "noto": _draw_noto,
    "fluent": _open_webp,
    "twemoji": partial(_rasterise, "dist/svg", "{:04x}"),
    "openmoji": partial(_rasterise, "color/svg", "{:04X}"),
}


def load_style(style: str, cache: Path = CACHE) -> np.ndarray:
    """Load every object in ``style``: uint8 [objects, GLYPH_SIZE, GLYPH_SIZE, 4], in the order of ``OBJECTS``.

    The first call fetches the style's package and keeps the drawings beside it.
    """
    source = SOURCES[style]
    stored = cache / f"{style}-{source.version}-{len(OBJECTS)}-{GLYPH_SIZE}.npy"
    if not stored.exists():
        folder = source.fetch(cache)
        glyphs = np.stack([np.asarray(_trimmed(_READERS[style](folder, item.codepoint))) for item in OBJECTS])
        np.save(stored, glyphs)
        logger.info("drew %d objects in the %s style", len(glyphs), style)
    return np.load(stored)


class Art:
    """The drawings of several styles, each kept at the scales that were asked for."""

    def __init__(self, glyphs: Mapping[str, np.ndarray]) -> None:
        """``glyphs`` holds uint8 [objects, S, S, 4] by style."""
        self._glyphs = glyphs
        self._reduced: dict[tuple[str, int, int], Image.Image] = {}

    @classmethod
    def load(cls, styles: Iterable[str], cache: Path = CACHE) -> Art:
        """Read, or on first use fetch, these styles."""
        return cls({style: load_style(style, cache) for style in styles})

    def glyph(self, style: str, index: int, least: float) -> Image.Image:
        """Give a drawing of at least ``least`` pixels a side where it has them; premultiplied, mode ``RGBa``."""
        pixels = self._glyphs[style][index]
        factor = max(1, int(len(pixels) / least))
        key = style, index, factor
        if key not in self._reduced:
            self._reduced[key] = Image.fromarray(pixels).convert("RGBa").reduce(factor)
        return self._reduced[key]
