"""Sees that a server which is up also serves: by its processes, by a known image's caption, by requests that stick.

A busy server must not be taken for a broken one, because a restart would lose all it is at work on. So a caption that
does not come in time counts only if no other request got one meanwhile. A wrong one always counts. In time is what the
setting says, or three times what the server took at its start: a large model on few cores takes long and is in order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.server import Server
from ofa_serving.metrics import STUCK_METRIC

_AGAIN_SECONDS = 1
_FAILURES = 2
_PATIENCE = 3
_TRIALS = 3
"""Of the last so many captions so many fail until the server counts as broken: of two processes only one may hang."""

logger = logging.getLogger(__name__)


class Watch:
    """Watches one run of a server. :meth:`check` is called over and over and never blocks for long."""

    def __init__(self, server: Server) -> None:
        """Begin; the server must have become ready."""
        settings = server.plan.settings
        self._server, self._interval = server, settings.canary_interval
        self._timeout = max(settings.canary_timeout, _PATIENCE * server.known_seconds)
        self._processes = server.model_processes
        self._executor = ThreadPoolExecutor(1, "canary")
        self._trial: Future[None] | None = None
        self._next_trial = time.monotonic() + self._interval
        self._failed: deque[bool] = deque(maxlen=_TRIALS)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a model's process has ended.

        Requests that are with it are then answered by the server in its own words, until the server is ended.
        """
        self._processes.wait(seconds)

    def check(self) -> None:
        """Look at what is due to be looked at.

        Raises:
            LaunchError: the server has ended or does not serve; with the reason.

        """
        self._server.check_running()
        if failure := self._processes.failure:
            raise LaunchError(failure)
        now = time.monotonic()
        if self._trial is not None and self._trial.done():
            trial, self._trial = self._trial, None
            self._next_trial = now + self._judge(trial)
        elif self._trial is None and now >= self._next_trial:
            self._trial = self._executor.submit(self._try)

    @property
    def refuses(self) -> bool:
        """Whether the server can still refuse requests in its own words: the processes of its public models live."""
        public = {artifact.name for artifact in self._server.plan.artifacts}
        return public.isdisjoint(self._processes.failed())

    def close(self) -> None:
        """Let go of the thread; a caption it still waits for ends by its own timeout."""
        self._executor.shutdown(wait=False)

    def _try(self) -> None:
        for canary in self._server.plan.canaries:
            canary.check_alive(self._server.plan.endpoints, self._timeout)

    def _judge(self, trial: Future[None]) -> float:
        """Return the seconds until the next trial."""
        if self._server.metric(STUCK_METRIC):
            raise LaunchError("requests that were given up are stuck in a model that hangs")
        reason = trial.exception()
        if reason is None:
            self._failed.append(False)
            return _AGAIN_SECONDS if any(self._failed) else self._interval
        if not isinstance(reason, LaunchError):
            raise reason
        self._failed.append(True)
        if sum(self._failed) == _FAILURES:
            raise reason
        logger.warning("%s; trying again", reason)
        return _AGAIN_SECONDS
