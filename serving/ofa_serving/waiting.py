"""The line in front of the stages: interactive requests before batch ones, each kind in its order of arrival."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class PriorityClass(StrEnum):
    """Who waits for an answer; the request parameter ``priority_class``. Those named first are served first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class WaitingLine(Generic[T]):
    """What waits for a free thread. Any thread may call."""

    def __init__(self) -> None:
        self._lines: dict[PriorityClass, deque[T]] = {priority: deque() for priority in PriorityClass}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T, priority: PriorityClass) -> None:
        """Adds an item behind those of its class."""
        with self._changed:
            self._lines[priority].append(item)
            self._changed.notify()

    def take(self) -> T | None:
        """Waits for the next item; None once the line is closed and empty."""
        with self._changed:
            while True:
                for line in self._lines.values():
                    if line:
                        return line.popleft()
                if self._closed:
                    return None
                self._changed.wait()

    def withdraw(self, item: T) -> bool:
        """Takes an item out of the line; false if it is not in it any more."""
        with self._changed:
            for line in self._lines.values():
                if item in line:
                    line.remove(item)
                    return True
        return False

    def close(self) -> None:
        """Lets those that take go once nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
