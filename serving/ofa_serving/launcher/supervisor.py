"""Keeps a server running until a signal ends it: starts it, watches it, starts it again if it fails."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from ofa_serving import signals
from ofa_serving.launcher.artifact import Artifact
from ofa_serving.launcher.canary import Canary, kept_folder
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.endpoints import Endpoints
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.restarts import Restarts
from ofa_serving.launcher.server import Plan, Server
from ofa_serving.launcher.settings import Ports, Settings
from ofa_serving.launcher.shared_memory import own_regions
from ofa_serving.launcher.watch import Watch

_POLL_SECONDS = 0.1
_CLEAN_EXITS = (0, -signal.SIGTERM)  # the second before it listens to signals
_ONE_SIGNAL = 1.0
"""Seconds in which further signals are the first one's echo: who signals a whole group reaches make as well, which
passes on what it gets."""

_EXIT_MARGIN = 10
"""Seconds past the server's own exit timeout until it is killed."""

_SENT_SECONDS = 0.5
"""Until the last answers have left the machine."""

_LAST_SECONDS = 2
"""What a broken server is given to finish what it still can."""

logger = logging.getLogger(__name__)


class Supervisor:
    """Serves verified artifacts with an installed Triton on claimed ports."""

    def __init__(
        self, settings: Settings, artifacts: Sequence[Artifact], installation: Installation, ports: Ports
    ) -> None:
        self._plan = Plan(
            settings=settings,
            artifacts=artifacts,
            installation=installation,
            endpoints=Endpoints(settings.reachable_host, ports),
            canaries=[Canary.load(artifact.folder / "canary", artifact.name) for artifact in artifacts],
        )
        for canary in self._plan.canaries:
            canary.keep(kept_folder(settings.run_folder, ports.grpc, canary.model))
        self._restarts = Restarts(settings.max_restarts)
        self._served = False
        self._stopping = threading.Event()
        self._told = 0.0
        self._impatient = threading.Event()

    def run(self) -> None:
        """Serve until a signal, then let the requests in flight finish; a later second one does not wait.

        Raises:
            LaunchError: the server did not come up the first time, failed again and again, or had to be killed.

        """
        for number in signals.ending():
            signal.signal(number, self._on_signal)
        while (failure := self._run_once()) is not None:
            delay = self._restarts.next(failure)
            logger.error("%s; starting it again in %d s (restart %d)", failure, delay, self._restarts.total)
            if self._stopping.wait(delay):
                return

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._stopping.is_set():
            self._told = time.monotonic()
        elif time.monotonic() - self._told > _ONE_SIGNAL:
            self._impatient.set()
        self._stopping.set()

    def _run_once(self) -> str | None:
        """Run the server once; None after a signal, or else why it failed."""
        with own_regions() as prefix:
            server = Server(self._plan, prefix, self._restarts.total)
            try:
                failure = self._serve(server)
                if failure is None:
                    self._stop(server)
                return failure
            finally:
                server.kill()

    def _serve(self, server: Server) -> str | None:
        try:
            if server.wait_until_ready(self._stopping):
                self._announce()
                self._watch(server)
        except LaunchError as error:
            if self._stopping.is_set():
                return None
            if not self._served:  # what never worked is not put right by another try
                raise
            return str(error)
        return None

    def _announce(self) -> None:
        """Say that it is ready: a line for people, and one on standard output for programs."""
        self._served = True
        self._restarts.serving()
        endpoints = self._plan.endpoints
        names = ",".join(artifact.name for artifact in self._plan.artifacts)
        logger.info("ready: every known image has its caption")
        if sys.stdout is not None:
            with contextlib.suppress(OSError):  # its reader has gone, or the disk is full; the server serves
                sys.stdout.write(f"ready {names} {endpoints.http} grpc://{endpoints.grpc} {endpoints.metrics}\n")
                sys.stdout.flush()

    def _watch(self, server: Server) -> None:
        watch = Watch(server)
        try:
            while not self._stopping.is_set():
                watch.wait(_POLL_SECONDS)
                watch.check()
        except LaunchError:
            if watch.refuses:
                server.drain(time.monotonic() + _LAST_SECONDS, self._impatient)
            raise
        finally:
            watch.close()

    def _stop(self, server: Server) -> None:
        timeout = self._plan.settings.stop_timeout
        logger.info("stopping: requests in flight are given %d s", timeout)
        stop_by = time.monotonic() + timeout
        if server.drain(stop_by, self._impatient) and server.wait(_SENT_SECONDS) is None:
            # Nothing is lost. A Triton that ends by itself goes on for seconds, answering that it has no such models.
            server.kill()
            logger.info("stopped")
            return
        server.terminate()
        while (exit_code := server.wait(_POLL_SECONDS)) is None:
            if self._impatient.is_set():
                raise LaunchError("stopped at once by a second signal; requests in flight were lost")
            if time.monotonic() > stop_by + _EXIT_MARGIN:
                raise LaunchError("the server did not stop in time and was killed; requests in flight were lost")
        if exit_code not in _CLEAN_EXITS:
            raise LaunchError(f"while stopping, {server.explain_end()}")
        logger.info("stopped")
