"""Runs one server from start to stop: waits until it captions, keeps watch, ends it cleanly.

Each step is bounded in time, and a signal ends each of them, so the launcher never hangs.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ofa_serving.draining import DRAIN_VARIABLE
from ofa_serving.launcher.artifact import Artifact
from ofa_serving.launcher.canary import Canary
from ofa_serving.launcher.drain import requests_in_flight
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.failures import explain
from ofa_serving.launcher.settings import Ports, Settings
from ofa_serving.launcher.shared_memory import FOLDER, own_regions
from ofa_serving.launcher.triton import TritonProcess, triton_command

_POLL_SECONDS = 0.1
_DRAIN_SECONDS = 0.2
_CLEAN_EXITS = (0, -signal.SIGTERM)  # the second before it listens to signals
_PROBE_SECONDS = 2
_EXIT_MARGIN = 10
"""Seconds past the server's own exit timeout until it is killed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoints:
    """Where this machine's clients reach the server."""

    host: str
    ports: Ports

    @property
    def http(self) -> str:
        """The HTTP endpoint's URL."""
        return f"http://{self.host}:{self.ports.http}"

    @property
    def grpc(self) -> str:
        """The gRPC endpoint as host:port, as gRPC's clients take it."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def metrics(self) -> str:
        """The metrics' URL."""
        return f"http://{self.host}:{self.ports.metrics}/metrics"


class Supervisor:
    """Serves verified artifacts with an installed Triton on claimed ports."""

    def __init__(
        self, settings: Settings, artifacts: Sequence[Artifact], installation: Installation, ports: Ports
    ) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._installation = installation
        self._ports = ports
        self._endpoints = Endpoints(settings.reachable_host, ports)
        self._canaries = [Canary.load(artifact.folder / "canary", artifact.name) for artifact in artifacts]
        self._stopping = threading.Event()
        self._impatient = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let the requests in flight finish; a second signal does not wait.

        Raises:
            LaunchError: the server did not come up, ended by itself, or had to be killed.

        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with own_regions() as prefix:
            drain_file = FOLDER / f"{prefix}drain"
            server = self._start(prefix, drain_file)
            try:
                if self._wait_until_ready(server):
                    self._announce()
                    self._watch(server)
                self._stop(server, drain_file)
            finally:
                server.kill()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            self._impatient.set()
        self._stopping.set()

    def _start(self, prefix: str, drain_file: Path) -> TritonProcess:
        command = triton_command(
            self._installation,
            [artifact.repository for artifact in self._artifacts],
            host=self._settings.host,
            ports=self._ports,
            region_prefix=prefix,
            exit_timeout=self._settings.stop_timeout,
            gpu=any(artifact.needs_gpu for artifact in self._artifacts),
        )
        server = TritonProcess(command, {**self._installation.environment, DRAIN_VARIABLE: str(drain_file)})
        logger.info("started tritonserver, process %d", server.pid)
        return server

    def _wait_until_ready(self, server: TritonProcess) -> bool:
        """Wait until the models have loaded and caption their known images; False if a signal came first."""
        deadline = time.monotonic() + self._settings.start_timeout
        while not self._is_ready():
            self._check_running(server)
            if self._stopping.wait(_POLL_SECONDS):
                return False
            if time.monotonic() > deadline:
                raise LaunchError(f"the server was not ready after {self._settings.start_timeout} s (--start-timeout)")
        for canary in self._canaries:
            if self._stopping.is_set():
                return False
            try:
                canary.check(self._endpoints.grpc, max(deadline - time.monotonic(), _PROBE_SECONDS))
            except LaunchError:
                self._check_running(server)  # if it has died, that is the reason to give
                raise
        return True

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._endpoints.http}/v2/health/ready", timeout=_PROBE_SECONDS) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def _announce(self) -> None:
        """Say that it is ready: a line for people, and one on standard output for programs."""
        names = ",".join(artifact.name for artifact in self._artifacts)
        where = f"{self._endpoints.http} grpc://{self._endpoints.grpc} {self._endpoints.metrics}"
        logger.info("ready: every known image has its caption")
        sys.stdout.write(f"ready {names} {where}\n")
        sys.stdout.flush()

    def _watch(self, server: TritonProcess) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self._check_running(server)

    def _check_running(self, server: TritonProcess) -> None:
        if server.exit_code is not None and not self._stopping.is_set():
            raise LaunchError(explain(server.exit_code, server.last_lines()))

    def _stop(self, server: TritonProcess, drain_file: Path) -> None:
        logger.info("stopping: requests in flight are given %d s", self._settings.stop_timeout)
        stop_by = time.monotonic() + self._settings.stop_timeout
        self._drain(server, drain_file, stop_by)
        server.terminate()
        deadline = stop_by + _EXIT_MARGIN
        while server.wait(_POLL_SECONDS) is None:
            if self._impatient.is_set():
                raise LaunchError("stopped at once by a second signal; requests in flight were lost")
            if time.monotonic() > deadline:
                raise LaunchError("the server did not stop in time and was killed; requests in flight were lost")
        if server.exit_code not in _CLEAN_EXITS:
            raise LaunchError(f"while stopping, {explain(server.exit_code, server.last_lines())}")
        logger.info("stopped")

    def _drain(self, server: TritonProcess, drain_file: Path, stop_by: float) -> None:
        """Have new requests refused, and wait until none is in flight: an ending Triton would fail those."""
        drain_file.touch()
        while server.exit_code is None and time.monotonic() < stop_by and not self._impatient.is_set():
            time.sleep(_DRAIN_SECONDS)  # also for requests that were let in while the file was made
            if not requests_in_flight(self._endpoints.metrics):
                return
