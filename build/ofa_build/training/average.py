"""Averages checkpoints of one structure, weight by weight: ``python -m ofa_build.training.average TO CHECKPOINT...``.

Runs that began with the same weights end near each other, and their mean is often better than any of them (a "model
soup": Wortsman et al., 2022); so is the mean of one run's last checkpoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ofa_build.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from ofa_build.model import OFA
from ofa_build.training.recipe import RecipeError


def averaged(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Give the mean of the checkpoints' weights, with the first one's settings.

    Raises:
        RecipeError: if they have different structures, vocabularies or settings.

    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        same = {part: getattr(other, part) == getattr(first, part) for part in ("config", "settings")}
        same["vocabulary"] = other.has_vocabulary_of(first)
        for part, is_same in same.items():
            if not is_same:
                raise RecipeError(f"the checkpoints differ in their {part}; they have no mean")
    model = OFA(first.config)  # it knows which weights are one tensor
    model.load_state_dict({name: _mean([each.state_dict[name] for each in checkpoints]) for name in first.state_dict})
    return replace(first, state_dict=model.state_dict())


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Give the mean; of what is counted or numbered, which is the same or does not matter, the first."""
    return torch.stack(list(tensors)).mean(0) if tensors[0].is_floating_point() else tensors[0]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("to", type=Path, help="the new checkpoint's folder")
    parser.add_argument("checkpoints", nargs="+", help="directories, .pt files or names on a hub")
    flags = parser.parse_args()
    try:
        made = averaged([load_checkpoint(source) for source in flags.checkpoints])
    except (CheckpointError, RecipeError) as error:
        sys.exit(str(error))
    save_checkpoint(flags.to, made.config, made.state_dict, made.settings, made.tokenizer_files)


if __name__ == "__main__":
    main()
