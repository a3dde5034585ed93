"""``ofa-build evaluate``: scores a checkpoint, or a running server, on captioned images."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from ofa_serving.contract import DEFAULT_NAME

from ..checkpoint import load_checkpoint
from ..data import DataError, open_data
from ..evaluation.captioners import Captioner, ServedCaptioner, TorchCaptioner
from ..evaluation.evaluate import evaluate
from ..evaluation.metrics import METRICS
from ..evaluation.report import make_folder, markdown, write_report
from .data_flags import KINDS, add_data_flags, data_options

log = logging.getLogger("ofa-build")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("evaluate", help="BLEU, METEOR, ROUGE-L, CIDEr and SPICE of a checkpoint or server")
    parser.set_defaults(run=run)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("checkpoint", nargs="?", help="run in PyTorch: a directory, a .pt file or a hub's name")
    who.add_argument("--url", help="ask a running server instead: grpc://host:port or http://host:port")
    parser.add_argument("--data", required=True, help=KINDS)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N records only")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), help="the report's folder (default %(default)s)"
    )
    parser.add_argument("--title", help="what the report calls this (default: the checkpoint or model)")
    parser.add_argument("--shown", type=int, default=200, help="worst images on the page (default %(default)s)")
    parser.add_argument("--model", default=DEFAULT_NAME, help="the served model's name (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time in PyTorch (default %(default)s)")
    add_data_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the subcommand."""
    if min(1 if flags.limit is None else flags.limit, flags.concurrency, flags.batch_size) < 1:
        raise DataError("--limit, --concurrency and --batch-size are 1 or more")
    if flags.shown < 0:
        raise DataError("--shown is 0 or more")
    data = open_data(flags.data, **data_options(flags))
    make_folder(flags.out)
    records = list(data.records)[: flags.limit]
    title = flags.title or (flags.model if flags.url else Path(flags.checkpoint).name)
    evaluation = evaluate(_captioner(flags), records, data.bad, flags.metrics)
    log.info("%s", markdown(evaluation, title))
    paths = write_report(evaluation, flags.out, title, flags.shown)
    log.info("wrote %s, %s and %s", paths.json, paths.markdown, paths.html)


def _captioner(flags: argparse.Namespace) -> Captioner:
    if flags.url:
        return ServedCaptioner(flags.url, flags.model, flags.concurrency)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TorchCaptioner.load(load_checkpoint(flags.checkpoint), device, flags.batch_size, flags.checkpoint)
