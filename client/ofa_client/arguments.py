"""The flags of ``ofa-caption``, each of them an environment variable as well."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, TypeVar

from ofa_client import contract
from ofa_client.aio import DEFAULT_TIMEOUT, LONGEST_TIMEOUT
from ofa_client.bulk.formats import FORMATS
from ofa_client.bulk.shard import Shard
from ofa_client.many import DEFAULT_CONCURRENCY

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
_INPUTS_HELP = (
    "image files, folders (with all below them), glob patterns, tar archives as WebDataset has them, Parquet files, "
    "URLs, .txt files with a path or URL a line, and - for such lines on standard input"
)
_EPILOG = (
    "With --output, the same command run again goes on where the last one ended. Exit status: 0 all captioned; "
    "1 some images failed, see the error file or standard error; 2 no usable server, an outage, or wrong arguments; "
    "128 and the signal's number if one ended it."
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what it leaves out comes from ``OFA_…`` variables, then from the defaults.

    A wrong argument, or a wrong value of a variable, ends the process with one line of reason and status 2.
    """
    parser = argparse.ArgumentParser(
        prog="ofa-caption",
        description="Captions images with an OFA captioning server. Every option may also be set as the environment "
        "variable named behind it.",
        epilog=_EPILOG,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=_INPUTS_HELP)
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    _add_server(parser.add_argument_group("server"))
    _add_data(parser.add_argument_group("data set"))
    _add_lines(parser.add_argument_group("standard output"))
    _add_search(parser.add_argument_group("search", "What shows no default here has the checkpoint's."))
    parsed = parser.parse_args(arguments)
    if parsed.details and not (parsed.json or parsed.output):
        parser.error("--details needs --json or --output")
    if not parsed.output:
        for name in ("errors", "format", "retry_failed"):
            if getattr(parsed, name):
                parser.error(f"--{name.replace('_', '-')} needs --output")
    return parsed


def search_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """Pick the request parameters out of the parsed command line; a data set gives way to interactive requests."""
    options = {name: getattr(parsed, name) for name in contract.PARAMETERS}
    options[contract.PRIORITY_CLASS] = parsed.priority_class or ("batch" if parsed.output else None)
    return options


def caption_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Pick out what the captions depend on, whoever makes them and however fast."""
    return {name: getattr(parsed, name) for name in ("model", *contract.PARAMETERS)}


def _add_server(group: Any) -> None:
    addresses = "the server: grpc://host:port or http://host:port; grpcs:// or https:// with TLS; replicas with commas"
    _add(group, "url", DEFAULT_URL, addresses)
    _add(group, "model", contract.MODEL, "the served model's name")
    _add(group, "timeout", f"{DEFAULT_TIMEOUT:g}", "seconds that captioning an image may take", type=_seconds)
    patience = "seconds to wait for a server or hosts of images that are full or away (10, with --output 120)"
    _add(group, "patience", None, patience, type=_patience)
    _add(group, "concurrency", DEFAULT_CONCURRENCY, "images in flight at once", type=_positive)
    _add(group, "api_key", None, "the proxy's key; better as the variable, which other users cannot list")
    _add(group, "header", None, "another header for every request; may be repeated", type=_header, action=_Merge)
    _add(group, "ca_file", None, "PEM certificates to trust with TLS instead of the system's", type=_file)
    _add(group, "cert_file", None, "this client's own PEM certificate, for mutual TLS", type=_file)
    _add(group, "key_file", None, "its key, if that is not in the certificate's file", type=_file)


def _add_data(group: Any) -> None:
    _add(group, "output", None, "write captions to this file instead of standard output", type=Path)
    _add(group, "format", None, f"{', '.join(FORMATS)}; without it, by the file's suffix", type=_format)
    _add(group, "errors", None, "write failures to this file instead of OUTPUT.errors.jsonl", type=Path)
    _add(group, "shard", "0/1", "caption part i of n, counted from 0, to a file of its own", type=_shard)
    _add(group, "image_column", "image", "a Parquet file's column of images: bytes, Hugging Face's, paths or URLs")
    _add(group, "key_column", None, "a Parquet file's column of names; without it, file/row")
    _add_switch(group, "retry_failed", "try the images again that failed before")
    _add_switch(group, "dry_run", "name the images that would be captioned, and ask no server")


def _add_lines(group: Any) -> None:
    _add_switch(group, "json", "one JSON object a line instead of 'path: caption'")
    _add_switch(group, "details", "in JSON: tokens, their log-probabilities and the time of each stage as well")


def _add_search(group: Any) -> None:
    for name in contract.PARAMETERS:
        kind = int if name in contract.INTEGER_PARAMETERS else float
        _add(group, name, 1 if name == "num_captions" else None, _SEARCH_HELP[name], type=kind)
    classes = "interactive, or batch, which gives way where the server is full (with --output it is batch)"
    _add(group, "priority_class", None, classes, type=_priority_class)


def _add(group: Any, name: str, default: object, text: str, **settings: Any) -> None:
    """Add ``--name`` with ``OFA_NAME``; argparse checks a variable's text as it checks the flag's."""
    variable = f"OFA_{name.upper()}"
    shown = "" if default is None else f", default {default}"
    group.add_argument(
        f"--{name.replace('_', '-')}",
        default=os.environ.get(variable) or default,
        help=f"{text} [{variable}{shown}]",
        metavar=_METAVARS.get(settings.get("type"), name.upper()),
        **settings,
    )


def _add_switch(group: Any, name: str, text: str) -> None:
    variable = f"OFA_{name.upper()}"
    group.add_argument(
        f"--{name.replace('_', '-')}",
        action=argparse.BooleanOptionalAction,
        default=os.environ.get(variable, "").lower() not in _FALSE,
        help=f"{text} [{variable}]",
    )


_N = TypeVar("_N", int, float)


def _number(text: str, kind: Callable[[str], _N]) -> _N:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid {kind.__name__} value: {text!r}") from error


def _positive(text: str) -> int:
    number = _number(text, int)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _seconds(text: str) -> float:
    number = _number(text, float)
    if not 0 < number <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {LONGEST_TIMEOUT:g}, not {text}")
    return number


def _patience(text: str) -> float:
    number = _number(text, float)
    if not 0 <= number <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"must be at least 0 and at most {LONGEST_TIMEOUT:g}, not {text}")
    return number


def _header(text: str) -> dict[str, str]:
    """Read one header, or the variable's several lines of them."""
    headers = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise argparse.ArgumentTypeError(f"must be NAME: VALUE, not {line!r}")
        headers[name.strip()] = value.strip()
    return headers


class _Merge(argparse.Action):
    """Takes each of a repeated flag's headers; the variable's only where there is no flag."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _flag: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, {**(before if isinstance(before, dict) else {}), **values})


def _one_of(text: str, words: Sequence[str]) -> str:
    if text not in words:
        raise argparse.ArgumentTypeError(f"must be {', '.join(words[:-1])} or {words[-1]}, not {text!r}")
    return text


def _format(text: str) -> str:
    return _one_of(text, FORMATS)


def _priority_class(text: str) -> str:
    return _one_of(text, contract.PRIORITY_CLASSES)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


_METAVARS = {
    int: "N",
    _positive: "N",
    float: "X",
    _seconds: "SECONDS",
    _patience: "SECONDS",
    _file: "FILE",
    Path: "FILE",
    _shard: "I/N",
    _header: "NAME:VALUE",
    _format: "FORMAT",
    _priority_class: "CLASS",
}


def _version() -> str:
    try:
        return version("ofa-client")
    except PackageNotFoundError:  # run from the source tree
        return "(not installed)"
