"""``ofa-build``: one subcommand for each thing that is made from a checkpoint."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ofa_serving.contract import DEFAULT_NAME

from .artifact import build_artifact
from .checkpoint import CheckpointError, load_checkpoint
from .commands import evaluate
from .commands.errors import EXPECTED
from .plans import PlanError, load_tensorrt
from .repository import Serving

log = logging.getLogger("ofa-build")

PRECISIONS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16"), "tensorrt": ("fp32",)}
"""What each engine is built in; fp32 gives the reference's captions exactly."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class UsageError(Exception):
    """A flag's value that cannot be honoured; one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; the exit code is 1 for what cannot be built, after one line that says why."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("onnxscript", "onnx_ir", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    flags = _parser().parse_args(arguments)
    try:
        flags.run(flags)
    except (CheckpointError, PlanError, UsageError, OSError, *EXPECTED) as error:
        log.error("ofa-build: %s", " ".join(str(error).split()))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ofa-build", description="Make things from OFA captioning checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="checkpoint to engines and a deployable model repository")
    build.set_defaults(run=_build)
    build.add_argument("checkpoint", help="a directory, a fairseq .pt file, or a hub's name such as damo/...")
    build.add_argument("--name", default=DEFAULT_NAME, help="the public model's name (default %(default)s)")
    build.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where to (default %(default)s)")
    build.add_argument("--engine", choices=PRECISIONS, default="onnxruntime")
    build.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    build.add_argument("--precision", choices=("fp32", "bf16", "fp16", "int8"), default="fp32")
    for command in (evaluate,):
        command.add(commands)
    return parser


def _build(flags: argparse.Namespace) -> None:
    if not _NAME.fullmatch(flags.name):
        raise UsageError(f"{flags.name!r} is no model name: letters, digits, _ and -, 64 at most")
    offered = PRECISIONS[flags.engine]
    if flags.precision not in offered:
        raise UsageError(f"engine {flags.engine} is built in {' or '.join(offered)}, not in {flags.precision}")
    if (flags.engine == "tensorrt") != (flags.device == "gpu"):
        raise UsageError("engine tensorrt is for --device gpu, the others are for cpu")
    if flags.engine == "tensorrt":
        load_tensorrt()
    serving = Serving.on(flags.device, flags.engine, flags.precision)
    checkpoint = load_checkpoint(flags.checkpoint)
    folder = build_artifact(checkpoint, flags.checkpoint, flags.name, flags.artifacts, serving)
    log.info("built %s", folder)


if __name__ == "__main__":
    sys.exit(main())
