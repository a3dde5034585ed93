"""``ofa-probe``: asks a running server for the captions of its known images; what a container's probes run.

A server whose models have died goes on saying that it is ready; only a caption shows that it serves. A server that
is busy, or is stopping, is alive: restarting it would lose the work in hand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ofa_serving.launcher.canary import Canary, kept_folder
from ofa_serving.launcher.endpoints import Endpoints
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import Settings, parse_settings

_SECONDS = 15
"""For a caption; with two looks at the metrics and Python's own start it fits the 20 s that chart and image allow."""

logger = logging.getLogger("ofa-probe")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the flags and variables of ``ofa-serve``, and try the server they describe.

    Returns:
        the exit code: 0 if it captions or is busy, 1 with one line of log if it does not.

    """
    purpose = "Ask the server that ofa-serve runs with the same flags for the captions of its known images."
    settings = parse_settings(arguments, program="ofa-probe", purpose=purpose)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        with ThreadPoolExecutor() as pool:  # one after the other, two that are late would take too long
            for trial in [pool.submit(_try, name, settings) for name in settings.names]:
                trial.result()
    except LaunchError as error:
        logger.error("%s", error)
        return 1
    return 0


def _try(name: str, settings: Settings) -> None:
    folder = kept_folder(settings.run_folder, settings.ports.grpc, name)
    if not folder.is_dir():
        raise LaunchError(f"no server of {name} was started here at gRPC port {settings.ports.grpc}")
    canary = Canary.load(folder, name)
    canary.check_alive(Endpoints(settings.reachable_host, settings.ports), _SECONDS)
