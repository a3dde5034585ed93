"""Which signals ask a command to end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def ending() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP, which a terminal sends that is closed; without what nohup or a shell has ignored."""
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def leaving() -> Iterator[None]:
    """Within, such a signal ends the process as an exception does.

    To the first process of a container the kernel delivers only what it has a handler for.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is leave:  # no other has been set since
                signal.signal(number, handler)
