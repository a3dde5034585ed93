"""Servers that a measurement starts for itself, with ``ofa-serve`` on free ports of loopback."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_serving.cores import usable_cores
from ofa_serving.launcher import tether
from ofa_serving.signals import ending

QUIET = ("--canary-interval=3600",)
"""For measurements: no captions but those that are measured."""

_STOP_SECONDS = 60


class ServerError(Exception):
    """The server did not start; says why."""


@dataclass(frozen=True)
class Served:
    """A running server: its launcher's process id, its URLs, and how long it took to caption its known image."""

    pid: int
    http: str
    grpc: str
    metrics: str
    start_seconds: float


def leave_in_order() -> None:
    """Has SIGTERM, and a terminal that is closed, end this process as an exception does: it stops what it started.

    For the beginning of each command; a second signal does not disturb the first one's work.
    """
    signals = [number for number in ending() if number != signal.SIGINT]  # which is an exception already

    def leave(number: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, leave)


def tied(command: Sequence[str]) -> list[str]:
    """The command, which the kernel terminates when this process dies, however that is: it clears up nothing then.

    For the main thread alone, whose end is what the kernel notices.
    """
    return [sys.executable, tether.__file__, str(os.getpid()), *command]


@contextlib.contextmanager
def served(name: str, artifacts: Path = Path("artifacts"), flags: Sequence[str] = ()) -> Iterator[Served]:
    """Serves a built checkpoint for as long as the context lasts.

    Raises:
        ServerError: it did not start.
    """
    ports = [f"--{listener}-port=0" for listener in ("http", "grpc", "metrics")]
    command = [sys.executable, "-m", "ofa_serving.launcher", name, f"--artifacts={artifacts}", *ports, *flags]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            words = process.stdout.readline().split()
            if not words:
                process.wait(_STOP_SECONDS)
                log.seek(0)
                raise ServerError(log.read().strip().rpartition("\n")[2])
            yield Served(process.pid, *words[2:5], time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)
            process.stdout.close()


def machine() -> str:
    """Says what this machine is, for a result's heading."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{usable_cores()} cores of {name or platform.machine()}"
