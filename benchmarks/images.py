"""JPEG files as a camera's: smooth shapes under noise, so that decoding costs what it does in practice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE = (640, 480)


def write_images(folder: Path, count: int) -> list[Path]:
    """Writes ``count`` different images, the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    random, paths = np.random.default_rng(3), []
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE)
        grain = random.normal(0, 6, (*SIZE[::-1], 3))
        pixels = (np.asarray(coarse.filter(ImageFilter.GaussianBlur(4))) + grain).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number:03}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths
