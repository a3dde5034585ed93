"""Counts the scenes that a built checkpoint captions exactly: ``python -m ofa_build.training.exact_match``.

The scenes are drawn as large as photographs and go through the served pipeline as files, with its default beam search.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from ofa_serving.contract import DEFAULT_NAME
from ofa_serving.local import LocalCaptioner

from ofa_build.scenes.art import Art
from ofa_build.scenes.render import natural_size, render
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import SOURCES, TRAINING_STYLES
from ofa_build.scenes.splits import Split

SEED = 1
"""Another stream than training's own evaluations draw from."""
CHUNK = 25
SIZES = (320, 640)
"""The longer side's range, in pixels."""


def exact_match(captioner: LocalCaptioner, sampler: SceneSampler, scenes: int) -> tuple[float, list[tuple[str, str]]]:
    """Give the share of captions that equal the scene's own, and the (wanted, given) pairs that differ."""
    art = Art.load(sampler.styles)
    wrong = []
    for first in range(0, scenes, CHUNK):
        numbers = range(first, min(first + CHUNK, scenes))
        captions = captioner.captions([scene_file(sampler, number, art) for number in numbers])
        pairs = ((sampler(number).caption, best) for number, (best, *_) in zip(numbers, captions, strict=True))
        wrong += [pair for pair in pairs if pair[0] != pair[1]]
    return 1 - len(wrong) / scenes, wrong


def scene_file(sampler: SceneSampler, number: int, art: Art) -> bytes:
    """Draw a scene at a size of its own: PNG, JPEG or WebP."""
    rng = np.random.default_rng(number)
    scene = sampler(number)
    picture, _ = render(scene, art, *natural_size(scene, int(rng.integers(*SIZES))))
    file = io.BytesIO()
    picture.save(file, str(rng.choice(["PNG", "JPEG", "WEBP"])), quality=90)
    return file.getvalue()


def main() -> None:
    """Print one JSON line for each split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("artifacts", DEFAULT_NAME, "model_repository"))
    parser.add_argument("--name", default=DEFAULT_NAME)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--styles", nargs="+", choices=SOURCES, default=TRAINING_STYLES)
    parser.add_argument("--show", type=int, default=10, help="how many wrong captions to print")
    arguments = parser.parse_args()
    with LocalCaptioner(arguments.repository, arguments.name) as captioner:
        for split in (Split.UNSEEN, Split.HELDOUT):
            sampler = SceneSampler(split, SEED, arguments.styles)
            share, wrong = exact_match(captioner, sampler, arguments.scenes)
            line = {"split": split.name.lower(), "scenes": arguments.scenes, "exact": share}
            json.dump({**line, "wrong": wrong[: arguments.show]}, sys.stdout)
            sys.stdout.write("\n")


if __name__ == "__main__":
    main()
