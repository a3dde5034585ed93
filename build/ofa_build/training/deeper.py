"""Adds layers to a checkpoint's transformer: ``python -m ofa_build.training.deeper CHECKPOINT TO``.

The new layers' branches begin at zero, so that the deeper model gives the captions of the one it is made of, and learns
from there: a teacher of a student that is already good need not begin anew.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ofa_build.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from ofa_build.model import OFA
from ofa_build.model.layers import Layer
from ofa_build.training.recipe import RecipeError


def deepened(checkpoint: Checkpoint, encoder_layers: int, decoder_layers: int, seed: int = 7) -> Checkpoint:
    """Give the checkpoint more layers, behind its own, that at first change nothing.

    Args:
        checkpoint: one whose layers norm before and within their branches (``normformer``, ``*_normalize_before``).
        encoder_layers: how many there shall be.
        decoder_layers: how many there shall be.
        seed: of the new layers' weights that are not zero.

    Raises:
        RecipeError: if it has more layers than that, or norms them otherwise.

    """
    had = checkpoint.config
    if encoder_layers < had.encoder_layers or decoder_layers < had.decoder_layers:
        raise RecipeError(f"it has {had.encoder_layers} and {had.decoder_layers} layers already")
    if not (had.normformer and had.encoder_normalize_before and had.decoder_normalize_before):
        raise RecipeError("only a checkpoint with normformer and norms before its branches can be made deeper")
    config = replace(had, encoder_layers=encoder_layers, decoder_layers=decoder_layers)
    torch.manual_seed(seed)
    model = OFA(config)
    for layer in (*model.encoder.layers[had.encoder_layers :], *model.decoder.layers[had.decoder_layers :]):
        _silence(layer)
    return replace(checkpoint, config=config, state_dict=model.state_dict() | checkpoint.state_dict)


def _silence(layer: Layer) -> None:
    """Let every branch end in zeros, by weights that learn at once: what is before them still gets a signal."""
    ends = [module for name, module in layer.named_modules() if name.endswith("attn_mid_layer_norm")]
    for end in (*ends, layer.fc2):
        nn.init.zeros_(end.weight)
        nn.init.zeros_(end.bias)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("to", type=Path, help="the new checkpoint's folder")
    parser.add_argument("--encoder-layers", type=int, default=4)
    parser.add_argument("--decoder-layers", type=int, default=4)
    flags = parser.parse_args()
    try:
        made = deepened(load_checkpoint(flags.checkpoint), flags.encoder_layers, flags.decoder_layers)
    except (CheckpointError, RecipeError) as error:
        sys.exit(str(error))
    save_checkpoint(flags.to, made.config, made.state_dict, made.settings, made.tokenizer_files)


if __name__ == "__main__":
    main()
