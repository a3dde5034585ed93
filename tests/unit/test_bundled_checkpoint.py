"""The bundled checkpoint: small, complete, and right about the example pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.evaluation.captioners import TorchCaptioner
from ofa_serving.images import load_pixels

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "emoji"
CAPTIONS = json.loads((ROOT / "examples" / "captions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(CHECKPOINT)


def test_it_takes_at_most_twenty_megabytes():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 20e6


def test_every_example_has_a_caption_and_a_file():
    assert {path.name for path in (ROOT / "examples" / "images").iterdir()} == set(CAPTIONS)


def test_it_captions_every_example_exactly(checkpoint):
    captioner = TorchCaptioner.load(checkpoint, torch.device("cpu"))
    files = [ROOT / "examples" / "images" / name for name in CAPTIONS]
    pixels = np.stack([load_pixels(file.read_bytes(), checkpoint.settings.patch_image_size) for file in files])
    assert dict(zip(CAPTIONS, captioner.captions(pixels), strict=True)) == CAPTIONS
