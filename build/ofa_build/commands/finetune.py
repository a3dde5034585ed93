"""``ofa-build finetune``: fine-tunes a checkpoint on captioned images."""

from __future__ import annotations

import argparse

from ..training.recipe import STAGES
from .data_flags import KINDS, add_data_flags
from .recipe_flags import add_recipe_flags, data_of, load, log_result, options_of


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "finetune",
        help="fine-tune a checkpoint on captioned images",
        description="Several processes: torchrun --nproc-per-node N -m ofa_build.cli finetune ...",
    )
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", help="a directory, a .pt file or a hub's name")
    parser.add_argument("--train", required=True, metavar="DATA", help=KINDS)
    parser.add_argument("--eval", metavar="DATA", help="keeps the checkpoint with the best CIDEr on it")
    parser.add_argument("--work", default="work", metavar="DIR", help="the run's folder (default %(default)s)")
    parser.add_argument("--stage", choices=STAGES, default="cross-entropy")
    add_data_flags(parser)
    add_recipe_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the subcommand."""
    finetune = load("finetuning").finetune
    result = finetune(
        flags.checkpoint, flags.train, flags.eval, flags.work, stage=flags.stage, data=data_of(flags),
        **options_of(flags),
    )  # fmt: skip
    log_result(result)
