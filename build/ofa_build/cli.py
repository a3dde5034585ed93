"""``ofa-build``: one subcommand for each thing that is made from a checkpoint."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ofa_serving.signals import ending

log = logging.getLogger("ofa-build")

_COMMANDS = ("build", "evaluate", "finetune", "distill")

_SHOWN = 400
"""Characters of an error that nobody foresaw; torch's can be pages."""


class _Stopped(KeyboardInterrupt):
    """A signal came: ``args`` has its number. Libraries know the base class, and let it pass."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Returns:
        The exit code: 1 for what cannot be made, after one line that says why (and a trace, where the environment has
        ``OFA_DEBUG``); 128 and the number of a signal that ended it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("onnxscript", "onnx_ir", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with _signals():
            flags = _parser().parse_args(arguments)
            flags.run(flags)
    except _Stopped as stop:
        number = signal.Signals(*stop.args)
        log.error("ofa-build: stopped by %s", number.name)
        return 128 + number
    except Exception as error:  # whatever it is, it is told in a line
        log.error("ofa-build: %s", _sentence(error), exc_info=bool(os.environ.get("OFA_DEBUG")))
        stopped_by = getattr(error, "signal_number", None)  # of a training run, which has saved what it did
        return 1 if stopped_by is None else 128 + stopped_by
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ofa-build", description="Make things from OFA captioning checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in _COMMANDS:  # imported late: it takes seconds, in which a signal may come
        importlib.import_module(f"ofa_build.commands.{name}").add(commands)
    return parser


@contextmanager
def _signals() -> Iterator[None]:
    """Let a signal unwind a command, so that it removes what it began; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sentence(error: Exception) -> str:
    """Our own errors, and the system's, are sentences; of others the kind says most."""
    text, kind = " ".join(str(error).split()), type(error)
    if kind.__module__.partition(".")[0] in ("ofa_build", "ofa_serving") or isinstance(error, OSError):
        return text
    words = f"{kind.__name__}: {text[:_SHOWN]}" if text else kind.__name__
    return f"{words} (OFA_DEBUG=1 shows where)"


if __name__ == "__main__":
    sys.exit(main())
