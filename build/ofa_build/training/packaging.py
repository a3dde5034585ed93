"""Writes a run's model as a checkpoint: ``python -m ofa_build.training.packaging RUN checkpoints/emoji``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ofa_build.checkpoint import PipelineSettings, save_checkpoint
from ofa_build.model import OFAConfig
from ofa_build.scenes.vocabulary import PROMPT

_MODEL = "model."
"""What the objective's parameter names put before the model's; the head's have something else and stay behind."""


def package(run: Path, destination: Path, image_size: int) -> None:
    """Write the checkpoint that ``run`` has reached, for pictures of ``image_size``."""
    config = OFAConfig.from_dict(json.loads((run / "config.json").read_text(encoding="utf-8")))
    state = torch.load(run / "training.pt", weights_only=True)["objective"]
    weights = {
        name.removeprefix(_MODEL): tensor.contiguous() for name, tensor in state.items() if name.startswith(_MODEL)
    }
    settings = PipelineSettings(prompt=PROMPT, patch_image_size=image_size)
    vocabulary = {name: (run / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    save_checkpoint(destination, config, weights, settings, vocabulary)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--image-size", type=int, default=96)
    arguments = parser.parse_args()
    package(arguments.run, arguments.destination, arguments.image_size)


if __name__ == "__main__":
    main()
