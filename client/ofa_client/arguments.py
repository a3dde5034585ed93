"""The flags of ``ofa-caption``, each of them an environment variable as well."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ofa_client import contract
from ofa_client.aio import DEFAULT_TIMEOUT

DEFAULT_URL = "grpc://127.0.0.1:8001"

_SEARCH_HELP = {
    "beam_size": "hypotheses kept at each step, 1 to 16",
    "num_captions": "captions an image, 1 to the beam size",
    "max_length": "tokens at most, 1 to 128",
    "min_length": "tokens at least, 0 to the maximal length",
    "no_repeat_ngram_size": "no sequence of that many tokens comes twice, 0 to 16; 0 allows it",
    "length_penalty": "0 to 5; above 1 prefers longer captions",
    "temperature": "above 0 to 10; above 1 evens the tokens' probabilities out",
    "unk_penalty": "0 to 100, taken off the unknown token's log-probability",
}
_FALSE = ("", "0", "false", "no", "off")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what it leaves out comes from ``OFA_…`` variables, then from the defaults.

    A wrong argument, or a wrong value of a variable, ends the process with one line of reason and status 2.
    """
    parser = argparse.ArgumentParser(
        prog="ofa-caption",
        description="Captions images with an OFA captioning server. Every option may also be set as the environment "
        "variable named behind it.",
        epilog="Exit status: 0 all captioned; 1 some images failed, see standard error; 2 no usable server or "
        "wrong arguments.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    _add(parser, "url", DEFAULT_URL, "the server: grpc://host:port or http://host:port; grpcs:// or https:// with TLS")
    _add(parser, "model", contract.MODEL, "the served model's name")
    _add(parser, "ca_file", None, "PEM certificates to trust with TLS instead of the system's", type=_file)
    _add(parser, "timeout", f"{DEFAULT_TIMEOUT:g}", "seconds an image may take", type=float)
    _add(parser, "concurrency", 8, "images in flight at once", type=_positive)
    _add_switch(parser, "json", "one JSON object a line instead of 'path: caption'")
    _add_switch(parser, "details", "with --json: tokens, their log-probabilities and the time of each stage")
    search = parser.add_argument_group("search", "What is not given is the checkpoint's default.")
    for name in contract.PARAMETERS:
        kind = int if name in contract.INTEGER_PARAMETERS else float
        _add(search, name, 1 if name == "num_captions" else None, _SEARCH_HELP[name], type=kind)
    parsed = parser.parse_args(arguments)
    if parsed.details and not parsed.json:
        parser.error("--details needs --json")
    return parsed


def search_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """Pick the request parameters out of the parsed command line."""
    return {name: getattr(parsed, name) for name in contract.PARAMETERS}


def _add(group: Any, name: str, default: object, text: str, **settings: Any) -> None:
    """Add ``--name`` with ``OFA_NAME``; argparse checks a variable's text as it checks the flag's."""
    variable = f"OFA_{name.upper()}"
    shown = "" if default is None else f", default {default}"
    group.add_argument(
        f"--{name.replace('_', '-')}",
        default=os.environ.get(variable) or default,
        help=f"{text} [{variable}{shown}]",
        metavar=_METAVARS[settings["type"]] if "type" in settings else name.upper(),
        **settings,
    )


def _add_switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    variable = f"OFA_{name.upper()}"
    parser.add_argument(
        f"--{name}",
        action=argparse.BooleanOptionalAction,
        default=os.environ.get(variable, "").lower() not in _FALSE,
        help=f"{text} [{variable}]",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


_METAVARS = {int: "N", _positive: "N", float: "X", _file: "FILE"}


def _version() -> str:
    try:
        return version("ofa-client")
    except PackageNotFoundError:  # run from the source tree
        return "(not installed)"
