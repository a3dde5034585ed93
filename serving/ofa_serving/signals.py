"""Which signals ask a command to end."""

from __future__ import annotations

import signal


def ending() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP, which a terminal sends that is closed; without what nohup or a shell has ignored."""
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
