"""Where requests wait: in line for a thread, and for room in a stage; interactive ones before batch ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

from .contract import PRIORITY_CLASS, CaptionError, Code

T = TypeVar("T")

BATCH_SHARE = 0.5
"""The part of the room, and of the threads, that requests of the batch class may take; the rest is kept for others."""

LOOK_SECONDS = 0.25
"""Between two looks whether anybody still waits for what waits for room."""


class PriorityClass(StrEnum):
    """Who waits for an answer; the request parameter ``priority_class``. Those named first are served first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"

    @classmethod
    def take(cls, parameters: dict[str, Any]) -> Self:
        """Takes it out of a request's parameters.

        Raises:
            CaptionError: INVALID_PARAMETER.
        """
        try:
            return cls(parameters.pop(PRIORITY_CLASS, cls.INTERACTIVE))
        except ValueError:
            known = " or ".join(cls)
            raise CaptionError(Code.INVALID_PARAMETER, f"{PRIORITY_CLASS} must be {known}") from None


class WaitingLine(Generic[T]):
    """What waits for a free thread, each class in its order of arrival. Any thread may call."""

    def __init__(self, threads: int) -> None:
        """``threads`` will take. A thread at work cannot be called back, so batch items get only their share of them.

        That holds while nobody else waits, too: else nobody would be free for the next one.
        """
        self._lines: dict[PriorityClass, deque[T]] = {priority: deque() for priority in PriorityClass}
        self._free = {PriorityClass.INTERACTIVE: threads, PriorityClass.BATCH: max(1, int(threads * BATCH_SHARE))}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T, priority: PriorityClass) -> None:
        """Adds an item behind those of its class."""
        with self._changed:
            self._lines[priority].append(item)
            self._changed.notify()

    def take(self) -> T | None:
        """Waits for the next item, whose :meth:`done` must follow; None once the line is closed and empty."""
        with self._changed:
            while True:
                for priority, line in self._lines.items():
                    if line and self._free[priority]:
                        self._free[priority] -= 1
                        return line.popleft()
                if self._closed and not any(self._lines.values()):
                    return None
                self._changed.wait()

    def done(self, priority: PriorityClass) -> None:
        """The thread that took an item of this class is free again."""
        with self._changed:
            self._free[priority] += 1
            if self._closed:
                self._changed.notify_all()  # everybody has to see when it is empty
            elif any(self._lines.values()):
                self._changed.notify()  # of many idle threads only one could take what may be taken now

    def withdraw(self, item: T) -> bool:
        """Takes an item out of the line; false if it is not in it any more."""
        with self._changed:
            for line in self._lines.values():
                if item in line:
                    line.remove(item)
                    self._changed.notify_all()
                    return True
        return False

    def close(self) -> None:
        """Lets those that take go once nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Room:
    """So many images may be with a stage at a time. Any thread may call.

    The others wait here and not in the stage's own queue, where nobody could overtake them or give them up.
    """

    def __init__(self, images: int) -> None:
        self._size = self._free = images
        self._lines: dict[PriorityClass, deque[_Ticket]] = {priority: deque() for priority in PriorityClass}
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, images: int, priority: PriorityClass, check: Callable[[], None]) -> Iterator[None]:
        """Waits for room and holds it; ``check`` raises once nobody waits for the images any more."""
        ticket = _Ticket(min(images, self._size))  # more would never fit
        with self._lock:
            self._lines[priority].append(ticket)
            self._let_in()
        try:
            taken = False
            while not taken:
                taken = ticket.taken.wait(LOOK_SECONDS)
                check()
            yield
        finally:
            with self._lock:
                if ticket.taken.is_set():
                    self._free += ticket.images
                else:
                    self._lines[priority].remove(ticket)
                self._let_in()

    def _let_in(self) -> None:
        """Takes the first in line while there is room; nobody passes one that needs more, or it might wait for ever."""
        for line in self._lines.values():
            while line:
                if line[0].images > self._free:
                    return
                ticket = line.popleft()
                self._free -= ticket.images
                ticket.taken.set()


@dataclass(eq=False)
class _Ticket:
    """One that waits for room, and is told when it is taken for him."""

    images: int
    taken: threading.Event = field(default_factory=threading.Event)
