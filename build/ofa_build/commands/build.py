"""``ofa-build build``: a checkpoint to engines and a deployable model repository."""

from __future__ import annotations

import argparse
import logging
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ofa_serving.containers import JPEG_SIGNATURE
from ofa_serving.contract import DEFAULT_NAME, CaptionError, Names
from ofa_serving.images import ImageLimits, load_pixels

from ..artifact import build_artifact
from ..checkpoint import load_checkpoint
from ..choice import AUTO, ENGINES, ChoiceError, choose, cpu_instructions
from ..plans import load_tensorrt
from ..repository import Serving

log = logging.getLogger("ofa-build")

PICTURES = 200
"""A range is known after a few; each is a run of the encoder."""

_SIGNATURES = (JPEG_SIGNATURE, b"\x89PNG", b"RIFF", b"GIF8", b"BM")
"""How the files of the formats that are served begin."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("build", help="checkpoint to engines and a deployable model repository")
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", help="a directory, a fairseq .pt file, or a hub's name such as damo/...")
    parser.add_argument("--name", default=DEFAULT_NAME, help="the public model's name (default %(default)s)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where to (default %(default)s)")
    parser.add_argument("--engine", choices=(AUTO, *ENGINES), default=AUTO, help="default: the fastest measured")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8", AUTO),
        default="fp32",
        help="fp32 is exact; auto is the fastest that this machine has instructions for (default %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help=f"for int8: pictures like those to be captioned, of which {PICTURES} at most are taken",
    )
    parser.add_argument("--sha256", help="what the weights must hash to, as a manifest of another build says it")
    parser.add_argument(
        "--threads", type=int, default=0, help="of each CPU engine; 0 is one for each core it may use (default)"
    )


def run(flags: argparse.Namespace) -> None:
    """Run the subcommand."""
    if not _NAME.fullmatch(flags.name):
        raise ChoiceError(f"{flags.name!r} is no model name: letters, digits, _ and -, 64 at most")
    if flags.name.endswith(Names.ENDINGS):
        raise ChoiceError(f"{flags.name!r} ends as a stage's name: {', '.join(Names.ENDINGS)} are taken")
    if flags.threads < 0:
        raise ChoiceError("--threads is 0 or more")
    choice = choose(flags.engine, flags.precision, flags.device, cpu_instructions())
    if choice.engine == "tensorrt":
        load_tensorrt()
    log.info("engine %s, precision %s: %s", choice.engine, choice.precision, choice.why)
    if flags.pictures and choice.precision != "int8":
        raise ChoiceError(f"--pictures is for int8, not for {choice.precision}")
    pictures = _pictures(flags.pictures) if choice.precision == "int8" else ()
    serving = replace(Serving.on(flags.device, choice.engine, choice.precision), threads=flags.threads)
    checkpoint = load_checkpoint(flags.checkpoint, flags.sha256)
    folder = build_artifact(checkpoint, flags.checkpoint, flags.name, flags.artifacts, serving, pictures)
    log.info("built %s", folder)


def _pictures(folder: Path | None) -> list[bytes]:
    """Picture files from all over a folder; what cannot be read is named and passed over."""
    if folder is None:
        raise ChoiceError("int8 needs --pictures FOLDER: pictures like those to be captioned")
    if not folder.is_dir():
        raise ChoiceError(f"--pictures {folder} is no folder")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and _begins_as_picture(path))
    step = -(-len(paths) // PICTURES) or 1
    spread = (path for start in range(step) for path in paths[start::step])  # every n-th, then those between
    pictures = list(islice(filter(None, map(_picture, spread)), PICTURES))
    if not pictures:
        raise ChoiceError(f"--pictures {folder} has no picture that can be read")
    return pictures


def _begins_as_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_SIGNATURES)
    except OSError as error:
        log.warning("%s is passed over: %s", path.name, error.strerror)
        return False


def _picture(path: Path) -> bytes | None:
    if path.stat().st_size > ImageLimits.max_bytes:  # a film may begin as a picture does
        log.warning("%s is passed over: it has more than %d bytes", path.name, ImageLimits.max_bytes)
        return None
    data = path.read_bytes()
    try:
        load_pixels(data, size=1)
    except CaptionError as error:
        log.warning("%s is passed over: %s", path.name, error)
        return None
    return data
