"""``ofa-serve``: the launch as a command."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import parse_settings
from ofa_serving.telemetry.logs import configure_logs

logger = logging.getLogger("ofa-serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted.

    Returns:
        the exit code: 0 after a clean stop, 1 with one line of log that says why it failed.

    """
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
    return 0
