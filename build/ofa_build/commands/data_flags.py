"""The flags that say which data a command reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..data import DataError
from ..data.records import DEFAULT_MAX_BAD

KINDS = "COCO .json, Karpathy .json:SPLIT, OFA .tsv, .jsonl, .csv, a folder that holds one, or a pattern in quotes"


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`data_options` reads."""
    data = parser.add_argument_group("data")
    data.add_argument("--images", type=Path, metavar="DIR", help="where file names start (default: beside their file)")
    data.add_argument(
        "--columns", type=_column, action="append", default=[], metavar="KEY=NAME",
        help="image=NAME or caption=NAME, where a table's columns have unusual names",
    )  # fmt: skip
    data.add_argument("--max-bad-records", type=int, default=DEFAULT_MAX_BAD, metavar="N", help="default %(default)s")


def data_options(flags: argparse.Namespace) -> dict[str, Any]:
    """Give the flags as :func:`~ofa_build.data.open_data` takes them."""
    columns = dict(flags.columns) or None
    if flags.max_bad_records < 0:
        raise DataError("--max-bad-records is 0 or more")
    return {"images": flags.images, "columns": columns, "max_bad": flags.max_bad_records}


def _column(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not equals or key not in ("image", "caption") or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not image=NAME or caption=NAME")
    return key, name
