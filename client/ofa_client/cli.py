"""``ofa-caption``: captions images and data sets, to standard output or to a file."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ofa_client.aio import LONGEST_TIMEOUT
from ofa_client.arguments import caption_settings, parse_arguments, search_options
from ofa_client.bulk.items import Columns, Inputs
from ofa_client.bulk.journal import JournalError
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.outage import OutageError
from ofa_client.bulk.output import Files, Lines, Output, OutputFiles
from ofa_client.bulk.progress import offer
from ofa_client.bulk.run import PATIENT, caption_items, count_in_background
from ofa_client.errors import CaptionServiceError
from ofa_client.sync import Captioner

SOME_FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130
SIGNALLED = 128
"""Plus the signal's number."""

_PATIENCE = 10.0  # without --output
_OUTAGE = 4  # times the images in flight: so many failures in a row
_PINGS = 3  # in an image's timeout; Triton hangs up at the fourth in a row without having sent anything


class _Terminated(BaseException):
    """A signal, whose number is the argument: what is done is kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed, and its number would be the next file's
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    parsed = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be valid text
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would stand between the command's
    for number in _endings():
        signal.signal(number, _terminate)
    try:
        inputs = Inputs(parsed.inputs, parsed.shard, Columns(parsed.image_column, parsed.key_column))
        return _list(inputs, parsed) if parsed.dry_run else _caption(inputs, parsed)
    except BrokenPipeError:  # standard output's reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except (CaptionServiceError, OutageError, JournalError, ImportError, ValueError) as error:
        return _give_up(str(error))
    except OSError as error:
        return _give_up(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except _Terminated as terminated:
        return SIGNALLED + terminated.args[0]


def _caption(inputs: Inputs, parsed: argparse.Namespace) -> int:
    files = _files(parsed)
    with _captioner(parsed) as captioner, _output(files, parsed) as output:
        if files and not inputs.come_once:
            count_in_background(inputs, output)
        caption_items(
            captioner,
            inputs,
            output,
            # With nothing but lines, whoever reads them judges; without patience, each failure is its image's.
            outage=_OUTAGE * parsed.concurrency if files and parsed.patience != 0 else 0,
            concurrency=parsed.concurrency,
            details=parsed.details,
            **search_options(parsed),
        )
        output.finish()
        output.expect(output.met - output.repeated)
        _say_what_is_empty(inputs, output.met)
        if output.repeated:
            offer(sys.stderr, f"ofa-caption: left out because their names came before: {output.repeated}\n")
        if files and output.failures:
            hint = f"{files.errors.name} says why, --retry-failed tries them again"
            offer(sys.stderr, f"ofa-caption: images without a caption: {output.failures}; {hint}\n")
        return SOME_FAILED if output.failures else 0


def _say_what_is_empty(inputs: Inputs, met: int) -> None:
    """Name the folders and lists without an image; a mistyped name may be the reason."""
    for name in inputs.without_images:
        offer(sys.stderr, f"ofa-caption: {'standard input' if name == '-' else name} holds no image\n")
    if not (met or inputs.without_images):
        what = "this shard of the inputs holds" if inputs.shard.count > 1 else "the inputs hold"
        offer(sys.stderr, f"ofa-caption: {what} no image\n")


def _files(parsed: argparse.Namespace) -> OutputFiles | None:
    if parsed.output is None:
        return None
    files = OutputFiles.named(parsed.output, parsed.format, parsed.errors, parsed.shard)
    files.check(parsed.inputs)
    return files


def _output(files: OutputFiles | None, parsed: argparse.Namespace) -> Output:
    if files is None:
        return Lines(parsed.json)
    return Files(files, parsed.retry_failed, _settings(files, parsed))


def _settings(files: OutputFiles, parsed: argparse.Namespace) -> dict[str, Any]:
    """Name what the output's lines depend on; other formats leave the details out."""
    details = {"details": parsed.details} if files.format == "jsonl" else {}
    return {**caption_settings(parsed), **details}


def _captioner(parsed: argparse.Namespace) -> Captioner:
    patience = parsed.patience
    if patience is None:
        patience = PATIENT.patience if parsed.output else _PATIENCE
    return Captioner(
        [url.strip() for url in parsed.url.split(",")],
        model=parsed.model,
        # Fetching the image, what the retries take, and the last attempt.
        timeout=min(2 * parsed.timeout + patience, LONGEST_TIMEOUT),
        retry=replace(PATIENT, patience=patience, attempt_timeout=parsed.timeout),
        api_key=parsed.api_key,
        headers=parsed.header,
        ca_file=parsed.ca_file,
        cert_file=parsed.cert_file,
        key_file=parsed.key_file,
        keep_alive=max(parsed.timeout / _PINGS, 1.0),
    )


def _list(inputs: Inputs, parsed: argparse.Namespace) -> int:
    """Name what is left to do, one key a line, and count it on standard error; no file is touched."""
    files = _files(parsed)
    if files:
        files.check_settings(_settings(files, parsed))
    known, met = files.known(parsed.retry_failed) if files else KeySet(), KeySet()
    done = left = repeated = 0
    for item in inputs:
        if not met.add(item.key):
            repeated += 1
        elif known.add(item.key):
            sys.stdout.write(f"{item.key}\n")
            left += 1
        else:
            done += 1
    repeats = f", {repeated} named again" if repeated else ""
    offer(sys.stderr, f"{left} images to caption, {done} done already{repeats}\n")
    _say_what_is_empty(inputs, left + done + repeated)
    return 0


def _endings() -> list[int]:
    """List the signals that end the command, a closed terminal's too unless nohup has it ignored; Windows has none."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup is None or signal.getsignal(hangup) == signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, hangup]


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise _Terminated(number)


def _give_up(reason: str) -> int:
    offer(sys.stderr, f"ofa-caption: {reason}\n")
    return UNUSABLE
