"""Writes scenes as captioned images, for the training commands: ``python -m ofa_build.scenes.dataset FOLDER``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ofa_build.scenes.art import Art
from ofa_build.scenes.references import references
from ofa_build.scenes.render import natural_size, render
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import SOURCES, TRAINING_STYLES
from ofa_build.scenes.splits import Split

_A_FOLDER = 1000
"""Images that one folder holds."""


def write_dataset(
    folder: Path, sampler: SceneSampler, art: Art, scenes: int, longer_side: tuple[int, int], texts: int
) -> Path:
    """Write ``scenes`` pictures and ``captions.jsonl``, which appears when everything is there.

    Args:
        folder: where to.
        sampler: draws them.
        art: the objects' drawings.
        scenes: how many.
        longer_side: the range of the longer side, in pixels; its end is left out.
        texts: captions a picture, 1 to 5; the first is the scene's own.

    """
    partial = folder / "captions.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as table:
        for number in range(scenes):
            scene = sampler(number)
            size = int(np.random.default_rng((number, sampler.seed)).integers(*longer_side))
            path = Path("images", f"{number // _A_FOLDER:03d}", f"{number:06d}.webp")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            render(scene, art, *natural_size(scene, size))[0].save(folder / path, quality=90, method=0)
            row = {"file_name": path.as_posix(), "captions": references(scene.caption)[:texts]}
            table.write(json.dumps(row) + "\n")
    return partial.replace(folder / "captions.jsonl")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--split", choices=[split.name.lower() for split in Split], default="train")
    parser.add_argument("--styles", nargs="+", choices=SOURCES, default=TRAINING_STYLES)
    parser.add_argument("--seed", type=int, default=2, help="another stream of scenes (default %(default)s)")
    parser.add_argument("--longer-side", type=int, nargs=2, default=(128, 256), metavar="PIXELS", help="from, to")
    parser.add_argument("--captions", type=int, choices=range(1, 6), default=1, help="wordings of each scene")
    flags = parser.parse_args()
    sampler = SceneSampler(Split[flags.split.upper()], flags.seed, flags.styles)
    write_dataset(flags.folder, sampler, Art.load(flags.styles), flags.scenes, tuple(flags.longer_side), flags.captions)


if __name__ == "__main__":
    main()
