"""``ofa-build distill``: teaches a small checkpoint what a large one knows."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .data_flags import KINDS, add_data_flags
from .recipe_flags import add_recipe_flags, data_of, load, log_result, options_of

_WEIGHTS = {
    "temperature": "by which both models' logits are divided (published: 1)",
    "hard": "weight of the captions' cross-entropy (published: 1)",
    "soft": "weight of the cross-entropy with the teacher (published: 0.168)",
    "attention": "weight of the attention's squared error; 0 leaves it out (published: 1)",
    "hidden": "weight of the states' squared error, where --hidden-map says which",
}


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("distill", help="teach a small checkpoint what a large one knows")
    parser.set_defaults(run=run)
    parser.add_argument("teacher", help="a directory, a .pt file or a hub's name")
    parser.add_argument("student", help="the same: pretrained, with the teacher's vocabulary and image size")
    parser.add_argument("--train", required=True, metavar="DATA", help=KINDS)
    parser.add_argument("--eval", metavar="DATA", help="keeps the checkpoint with the best CIDEr on it")
    parser.add_argument("--work", default="work", metavar="DIR", help="the run's folder (default %(default)s)")
    parser.add_argument("--cache", metavar="DIR", help="remember the teacher's outputs there")
    losses = parser.add_argument_group("losses")
    for name, text in _WEIGHTS.items():
        losses.add_argument(f"--{name}", type=float, help=text)
    losses.add_argument(
        "--attention-map", metavar="MAP",
        help="teacher's and student's layers, as encoder:0-0,1-1;decoder:0-0 (default: layer i to layer i)",
    )  # fmt: skip
    losses.add_argument("--hidden-map", metavar="MAP", help="the same, for the layers' states (default: none)")
    add_data_flags(parser)
    add_recipe_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the subcommand."""
    distillation, states = load("distillation"), load("inner_states")
    values: dict[str, Any] = {name: getattr(flags, name) for name in _WEIGHTS if getattr(flags, name) is not None}
    for name in ("attention_map", "hidden_map"):
        if getattr(flags, name) is not None:
            values[name] = _pairs(states.parse_pairs, name, getattr(flags, name))
    result = distillation.distil(
        flags.teacher, flags.student, flags.train, flags.eval, flags.work, losses=distillation.Losses(**values),
        cache=flags.cache, data=data_of(flags), **options_of(flags),
    )  # fmt: skip
    log_result(result)


def _pairs(parse: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise load("recipe").RecipeError(f"--{name.replace('_', '-')}: {error}") from error
