"""Draws the example pictures, none of which training saw: ``python -m ofa_build.scenes.examples examples``."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ofa_build.scenes.art import Art
from ofa_build.scenes.render import natural_size, render
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.splits import Split

SEED = 100
"""A stream of its own: training and the evaluations draw from others."""
STYLES = ("noto", "fluent", "twemoji")


@dataclass(frozen=True)
class Example:
    """One scene of the examples' stream, as a file whose longer side has ``longer_side`` pixels."""

    file: str
    split: Split
    index: int
    longer_side: int


EXAMPLES = (
    Example("boat.png", Split.HELDOUT, 24, 512),
    Example("cameras.jpg", Split.UNSEEN, 36, 640),
    Example("cupcakes.webp", Split.HELDOUT, 10, 640),
    Example("doughnuts.png", Split.UNSEEN, 11, 480),
    Example("gift.jpg", Split.UNSEEN, 17, 600),
    Example("hamburgers.jpg", Split.UNSEEN, 62, 600),
    Example("heart.webp", Split.UNSEEN, 3, 560),
    Example("owl.png", Split.UNSEEN, 39, 640),
    Example("robots.jpg", Split.HELDOUT, 14, 512),
    Example("snowmen.webp", Split.HELDOUT, 28, 640),
)


def write_examples(directory: Path) -> None:
    """Write ``images/`` and ``captions.json``, which holds each file's caption."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    captions = {}
    for example in EXAMPLES:
        sampler = SceneSampler(example.split, SEED, STYLES)
        scene = sampler(example.index)
        picture: Image.Image
        picture, _ = render(scene, Art.load(sampler.styles), *natural_size(scene, example.longer_side))
        picture.save(directory / "images" / example.file, quality=88)
        captions[example.file] = scene.caption
    text = json.dumps(captions, indent=2, ensure_ascii=False)
    (directory / "captions.json").write_text(f"{text}\n", encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    write_examples(parser.parse_args().directory)


if __name__ == "__main__":
    main()
