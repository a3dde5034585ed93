"""Scenes as training batches, drawn as they are needed: no picture is seen twice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ofa_serving.tokenizer import Tokenizer
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ofa_build.scenes.art import Art
from ofa_build.scenes.render import cell_classes, natural_size, render
from ofa_build.scenes.sampler import CollageSampler, SceneSampler
from ofa_build.scenes.scene import Scene
from ofa_build.scenes.splits import Split

MAX_TOKENS = 16
"""The longest caption with its end."""
STRIDE = 16
"""Pixels a side of the patch that one ResNet feature stands for."""
LARGE_SHARE = 0.15
"""How many training pictures are drawn larger, compressed and resized, as a user's are."""


@dataclass(frozen=True)
class SceneBatch:
    """``pixels`` uint8 [B, S, S, 3]; ``targets`` [B, T], padded; ``classes`` and ``centres`` [B, S/16, S/16]."""

    pixels: Tensor
    targets: Tensor
    classes: Tensor
    centres: Tensor

    @property
    def images(self) -> int:
        """How many pictures there are."""
        return len(self.pixels)

    def to(self, device: torch.device) -> SceneBatch:
        """Move the tensors."""
        return SceneBatch(*(part.to(device) for part in (self.pixels, self.targets, self.classes, self.centres)))

    def normalised(self) -> Tensor:
        """Give the pixels as the model takes them: float [B, 3, S, S] between -1 and 1, channels last in memory."""
        return (self.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def picture(scene: Scene, art: Art, size: int, longer_side: int) -> Image.Image:
    """Draw the scene at its natural proportions and squeeze it into a square, as the server does with an image."""
    return render(scene, art, *natural_size(scene, longer_side))[0].resize((size, size), Image.Resampling.BICUBIC)


class SceneDataset(Dataset):
    """Map-style: scene number ``index`` as pixels, target tokens (none for a collage) and cell classes."""

    def __init__(self, sampler: SceneSampler | CollageSampler, art: Art, tokenizer: Tokenizer, image_size: int) -> None:
        self.sampler, self.art, self.tokenizer, self.image_size = sampler, art, tokenizer, image_size
        self.augment = isinstance(sampler, SceneSampler) and sampler.split is Split.TRAIN

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
        scene = self.sampler(index)
        drawn, masks = render(scene, self.art, self.image_size, self.image_size)
        rng = np.random.default_rng((index, self.sampler.seed))
        if self.augment and rng.random() < LARGE_SHARE:
            drawn = picture(scene, self.art, self.image_size, int(rng.integers(200, 400)))
            if rng.random() < 0.5:
                drawn = _compressed(drawn, int(rng.integers(60, 95)))
        classes, centres = cell_classes(scene, masks, self.image_size // STRIDE)
        target = []
        if isinstance(scene, Scene):
            target = [*self.tokenizer.encode(scene.caption), self.tokenizer.special.eos]
        return np.asarray(drawn), target, classes, centres

    def collate(self, samples: Sequence[tuple[np.ndarray, list[int], np.ndarray, np.ndarray]]) -> SceneBatch:
        """Make one batch of samples."""
        pixels, targets, classes, centres = zip(*samples, strict=True)
        tokens = [torch.tensor(target, dtype=torch.long) for target in targets]
        return SceneBatch(
            torch.from_numpy(np.stack(pixels)),
            pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.special.pad),
            torch.from_numpy(np.stack(classes)),
            torch.from_numpy(np.stack(centres)),
        )


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def stream(dataset: SceneDataset, batch_size: int, first: int, last: int, workers: int = 1) -> DataLoader:
    """Batches number ``first`` to ``last`` (not included) of the endless stream of scenes."""
    indices = range(first * batch_size, last * batch_size)
    common = {"num_workers": workers, "prefetch_factor": 4 if workers else None}
    return DataLoader(dataset, batch_size, sampler=indices, collate_fn=dataset.collate, **common)
