"""``ofa-build``: one subcommand for each thing that is made from a checkpoint."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .checkpoint import CheckpointError
from .choice import ChoiceError
from .commands import build, distill, evaluate, finetune
from .commands.errors import EXPECTED
from .plans import PlanError

log = logging.getLogger("ofa-build")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; the exit code is 1 for what cannot be built, after one line that says why."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("onnxscript", "onnx_ir", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    flags = _parser().parse_args(arguments)
    try:
        flags.run(flags)
    except (CheckpointError, PlanError, ChoiceError, OSError, *EXPECTED) as error:
        log.error("ofa-build: %s", " ".join(str(error).split()))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ofa-build", description="Make things from OFA captioning checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (build, evaluate, finetune, distill):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
