"""One run of a server: started, waited for until it captions, emptied and ended.

Each step is bounded in time, and a signal ends each of them, so the launcher never hangs.
"""

from __future__ import annotations

import http.client
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ofa_serving.cancellation import CANCEL_VARIABLE
from ofa_serving.draining import DRAIN_VARIABLE, IN_FLIGHT_METRIC
from ofa_serving.launcher.artifact import Artifact
from ofa_serving.launcher.canary import Canary
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.endpoints import Endpoints, open_directly
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.failures import explain
from ofa_serving.launcher.model_processes import ModelProcesses
from ofa_serving.launcher.server_metrics import read_metric
from ofa_serving.launcher.settings import Settings
from ofa_serving.launcher.shared_memory import FOLDER
from ofa_serving.launcher.triton import TritonProcess, tracing_flags, triton_command
from ofa_serving.metrics import CANARIES_VARIABLE, RESTARTS_VARIABLE
from ofa_serving.stage_key import KEY_VARIABLE
from ofa_serving.telemetry.logs import FORMAT_VARIABLE
from ofa_serving.telemetry.requests import REQUESTS_VARIABLE
from ofa_serving.telemetry.spans import URL_VARIABLE

_FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""Of glibc's malloc, unless the operator set their number: with one for each thread, memory that one thread frees
serves no other, and a steady load goes on taking more. Two measure as fast."""

_POLL_SECONDS = 0.1
_DRAIN_SECONDS = 0.2
_PROBE_SECONDS = 2
_BUSY_SECONDS = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What every run of a launcher's server has in common."""

    settings: Settings
    artifacts: Sequence[Artifact]
    installation: Installation
    endpoints: Endpoints
    canaries: Sequence[Canary]


class Server:
    """A running Triton, whose regions in shared memory begin with a prefix of its own.

    Attributes:
        known_seconds: that the slowest known image took at the start.
    """

    known_seconds = 0.0

    def __init__(self, plan: Plan, prefix: str, restarts: int) -> None:
        """Start it.

        Args:
            plan: what to run.
            prefix: of its shared memory.
            restarts: how often it was started again so far; it shows them as a metric.

        """
        self.plan = plan
        self.model_processes = ModelProcesses()
        self._counts = False  # whether it has said how many requests are in flight
        self._drain_file = FOLDER / f"{prefix}drain"
        variables = {
            DRAIN_VARIABLE: str(self._drain_file),
            CANCEL_VARIABLE: str(FOLDER / f"{prefix}cancel"),
            RESTARTS_VARIABLE: str(restarts),
            CANARIES_VARIABLE: " ".join(canary.request_id for canary in plan.canaries),
            KEY_VARIABLE: secrets.token_hex(16),
            FORMAT_VARIABLE: plan.settings.log_format,
            REQUESTS_VARIABLE: plan.settings.request_log,
            URL_VARIABLE: plan.settings.trace_url,
        }
        environment = {**_FEW_ARENAS, **plan.installation.environment, **variables}
        self._process = TritonProcess(self._command(prefix), environment, plan.settings.log_format)
        logger.info("started tritonserver, process %d", self._process.pid)

    @property
    def pid(self) -> int:
        """The process id of ``tritonserver``."""
        return self._process.pid

    def wait_until_ready(self, stopping: threading.Event) -> bool:
        """Wait until the models have loaded and caption their known images; False if ``stopping`` came first.

        Raises:
            LaunchError: it ended, took too long, or captions otherwise.

        """
        timeout = self.plan.settings.start_timeout
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            self.check_running()
            if stopping.wait(_POLL_SECONDS):
                return False
            if time.monotonic() > deadline:
                raise LaunchError(f"the server was not ready after {timeout} s (--start-timeout)")
        # Before the known images and before anyone is told: what dies from here on was there and is missed.
        self.model_processes.find(self.pid)
        if not all(self._captions(canary, deadline, stopping) for canary in self.plan.canaries):
            return False
        if failure := self.model_processes.failure:  # while it loaded: another of the model's may have captioned
            raise LaunchError(failure)
        self._in_flight()
        return True

    def _captions(self, canary: Canary, deadline: float, stopping: threading.Event) -> bool:
        """Wait for a known image's captions; those who wait for a server that comes back may fill it first."""
        while not stopping.is_set():
            started = time.monotonic()
            try:
                if canary.check_alive(self.plan.endpoints, max(deadline - started, _PROBE_SECONDS), stopping):
                    self.known_seconds = max(self.known_seconds, time.monotonic() - started)
                    return True
            except LaunchError:
                if stopping.is_set():
                    break
                self.check_running()  # if it has died, that is the reason to give
                raise
            if time.monotonic() > deadline:
                raise LaunchError(f"{canary.model} is too busy to caption its known image")
            stopping.wait(_BUSY_SECONDS)
        return False

    def check_running(self) -> None:
        """Check that its process runs.

        Raises:
            LaunchError: it has ended; with the reason.

        """
        if self._process.exit_code is not None:
            raise LaunchError(explain(self._process.exit_code, self._process.last_lines()))

    def drain(self, until: float, impatient: threading.Event) -> bool:
        """Have new requests refused, and wait until none is in flight: an ending Triton would fail those.

        Returns:
            whether none is, which a server that does not count them never says. Of one that does, an answer that
            fails to come means nothing: it is asked again.

        """
        self._drain_file.touch()
        while self._process.exit_code is None and time.monotonic() < until and not impatient.is_set():
            time.sleep(_DRAIN_SECONDS)  # also for requests that were let in while the file was made
            in_flight = self._in_flight()
            if in_flight == 0:
                return True
            if in_flight is None and not self._counts:
                return False
        return False

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None if it still runs after ``seconds``."""
        return self._process.wait(seconds)

    def explain_end(self) -> str:
        """Return one sentence on why it has ended."""
        return explain(self._process.exit_code, self._process.last_lines())

    def kill(self) -> None:
        """End it now, and every process of its models."""
        self._process.kill()
        self.model_processes.close()

    def metric(self, name: str) -> float | None:
        """Return the sum of a metric's samples; None if the server does not say."""
        return read_metric(self.plan.endpoints.metrics, name)

    def _in_flight(self) -> float | None:
        count = self.metric(IN_FLIGHT_METRIC)
        self._counts = self._counts or count is not None
        return count

    def _command(self, prefix: str) -> list[str]:
        settings, artifacts = self.plan.settings, self.plan.artifacts
        return triton_command(
            self.plan.installation,
            [artifact.repository for artifact in artifacts],
            host=settings.host,
            ports=self.plan.endpoints.ports,
            region_prefix=prefix,
            start_timeout=settings.start_timeout,
            exit_timeout=settings.stop_timeout,
            calls=max(artifact.max_running for artifact in artifacts),
            gpu=any(artifact.needs_gpu for artifact in artifacts),
            cache_mib=settings.cache_mib,
            tracing=tracing_flags(settings.trace_url, settings.trace_every),
            shared_memory_key=settings.shared_memory_key,
        )

    def _is_ready(self) -> bool:
        url = f"{self.plan.endpoints.http}/v2/health/ready"
        try:
            with open_directly(url, timeout=_PROBE_SECONDS) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False
