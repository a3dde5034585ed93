"""Writes scenes as captioned images, for the training commands: ``python -m ofa_build.scenes.dataset FOLDER``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ofa_serving.cores import usable_cores
from torch.utils.data import DataLoader, Dataset

from ofa_build.scenes.art import Art
from ofa_build.scenes.references import references
from ofa_build.scenes.render import natural_size, render
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import SOURCES, TRAINING_STYLES
from ofa_build.scenes.splits import Split

_A_FOLDER = 1000
"""Images that one folder holds."""


class SceneFiles(Dataset):
    """Scenes as rows of a table of captions; taking one draws its picture into the folder.

    Args:
        folder: where to.
        sampler: draws them.
        art: the objects' drawings.
        scenes: how many.
        longer_side: the range of the longer side, in pixels; its end is left out.
        texts: captions a picture, 1 to 5; the first is the scene's own.

    """

    def __init__(
        self, folder: Path, sampler: SceneSampler, art: Art, scenes: int, longer_side: tuple[int, int], texts: int
    ) -> None:
        self._folder, self._sampler, self._art = folder, sampler, art
        self._scenes, self._longer_side, self._texts = scenes, longer_side, texts

    def __len__(self) -> int:
        return self._scenes

    def __getitem__(self, number: int) -> str:
        scene = self._sampler(number)
        size = int(np.random.default_rng((number, self._sampler.seed)).integers(*self._longer_side))
        path = Path("images", f"{number // _A_FOLDER:03d}", f"{number:06d}.webp")
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        render(scene, self._art, *natural_size(scene, size))[0].save(self._folder / path, quality=90, method=0)
        return json.dumps({"file_name": path.as_posix(), "captions": references(scene.caption)[: self._texts]})


def write_dataset(folder: Path, files: SceneFiles, workers: int = 0) -> Path:
    """Draw all of them, in ``workers`` processes beside this one, and write ``captions.jsonl`` when all are there."""
    partial = folder / "captions.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as table:
        for row in DataLoader(files, batch_size=None, num_workers=workers):
            table.write(row + "\n")
    return partial.replace(folder / "captions.jsonl")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--split", choices=[split.name.lower() for split in Split], default="train")
    parser.add_argument("--styles", nargs="+", choices=SOURCES, default=TRAINING_STYLES)
    parser.add_argument("--hard", type=float, default=0.0, help="share of scenes that are hard for certain")
    parser.add_argument("--seed", type=int, default=2, help="another stream of scenes (default %(default)s)")
    parser.add_argument("--longer-side", type=int, nargs=2, default=(128, 256), metavar="PIXELS", help="from, to")
    parser.add_argument("--captions", type=int, choices=range(1, 6), default=1, help="wordings of each scene")
    flags = parser.parse_args()
    sampler = SceneSampler(Split[flags.split.upper()], flags.seed, flags.styles, flags.hard)
    art = Art.load(flags.styles)
    files = SceneFiles(flags.folder, sampler, art, flags.scenes, tuple(flags.longer_side), flags.captions)
    write_dataset(flags.folder, files, usable_cores())


if __name__ == "__main__":
    main()
