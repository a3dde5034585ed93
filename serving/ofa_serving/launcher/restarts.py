"""How often a failing server is started again, and how soon: at once, unless it hardly served since the last time."""

from __future__ import annotations

import time
from collections import deque

from ofa_serving.launcher.errors import LaunchError

WINDOW = 600
"""Seconds after which a restart is forgotten."""

STEADY = 10
"""Seconds of service after which a failure is a new one, not the last one again."""

LONGEST_DELAY = 30


class Restarts:
    """The restarts of one launcher."""

    def __init__(self, most: int) -> None:
        """None yet; more than ``most`` within :data:`WINDOW` seconds are a crash loop."""
        self._most = most
        self._recent: deque[float] = deque()
        self._in_a_row = 0
        self._serving_since: float | None = None
        self.total = 0

    def serving(self) -> None:
        """Take note that the server serves from now on."""
        self._serving_since = time.monotonic()

    def next(self, reason: str) -> float:
        """Count one more restart.

        Args:
            reason: why the server failed.

        Returns:
            the seconds to wait before it.

        Raises:
            LaunchError: it failed too often, or restarts are not wanted; with the reason.

        """
        now = time.monotonic()
        while self._recent and now - self._recent[0] > WINDOW:
            self._recent.popleft()
        if self._most == 0:
            raise LaunchError(reason)
        if len(self._recent) == self._most:
            raise LaunchError(f"the server failed {self._most + 1} times within {WINDOW} s, the last time so: {reason}")
        if self._serving_since is not None and now - self._serving_since >= STEADY:
            self._in_a_row = 0
        self._serving_since = None
        delay = min(2 ** (self._in_a_row - 1), LONGEST_DELAY) if self._in_a_row else 0
        self._in_a_row += 1
        self._recent.append(now)
        self.total += 1
        return delay
