"""``ofa-serve``: the launch as a command."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import parse_settings
from ofa_serving.signals import leaving
from ofa_serving.telemetry.logs import configure_logs

logger = logging.getLogger("ofa-serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted.

    Returns:
        the exit code: 0 after a clean stop, 1 with one line of log that says why it failed.

    """
    with leaving():  # until the supervisor takes signals itself
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    settings = parse_settings(arguments)
    configure_logs(settings.log_format)
    try:
        # Imported late: what it needs comes with the server, and its absence deserves a sentence.
        importlib.import_module("ofa_serving.launcher.serve").serve(settings)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        logger.error("the package %s is not installed: pip install 'ofa-triton[serving,embedded]'", package)
        return 1
    except LaunchError as error:
        logger.error("%s", error)
        return 1
    finally:
        _drop_unwritten()
    return 0


def _drop_unwritten() -> None:
    """Let go of output that a full disk or a closed pipe does not take: Python would end with exit code 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
