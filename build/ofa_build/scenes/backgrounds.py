"""Draws a scene's background."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ofa_build.scenes.scene import Background

PALETTE = {
    "red": (205, 45, 50), "orange": (245, 140, 35), "yellow": (250, 220, 75), "green": (75, 165, 80),
    "blue": (60, 115, 215), "purple": (135, 70, 175), "pink": (250, 165, 195), "black": (22, 22, 26),
    "white": (246, 246, 246), "grey": (145, 147, 150),
}  # fmt: skip


def _colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw a shade of the named colour, float [3]."""
    shade = np.array(PALETTE[name], dtype=np.float32) + rng.uniform(-14, 14)
    return (shade + rng.uniform(-8, 8, 3)).clip(0, 255).astype(np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    ramp = rows * np.sin(angle) + columns * np.cos(angle)
    return (ramp - ramp.min()) / np.ptp(ramp)


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw blobs of several scales."""
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((4, 1.0), (10, 0.7), (28, 0.5)):
        grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return ((total - total.mean()) / (2.5 * total.std()) + 0.5).clip(0, 1)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw stripes, checks or dots."""
    period = rng.uniform(0.08, 0.3)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    along = np.sin(2 * np.pi * (columns * np.cos(angle) + rows * np.sin(angle)) / period)
    across = np.sin(2 * np.pi * (rows * np.cos(angle) - columns * np.sin(angle)) / period)
    kind = rng.integers(3)
    wave = (along + 0 * across, along * across * 2, along + across - 0.6)[kind]
    return (0.5 + 2 * wave).clip(0, 1)


_PATTERNS = {"gradient": _gradient, "noise": _noise, "texture": _texture}


def draw_background(background: Background, width: int, height: int) -> Image.Image:
    """Draw the background alone, RGB of ``width`` x ``height``."""
    rng = np.random.default_rng(background.seed)
    first = _colour(rng, background.colours[0])
    if background.kind == "plain":
        return Image.new("RGB", (width, height), tuple(int(channel) for channel in first))
    second = _colour(rng, background.colours[1])
    share = _PATTERNS[background.kind](rng, height, width)[..., None].astype(np.float32)
    return Image.fromarray((first * (1 - share) + second * share).astype(np.uint8))
