"""The processes that run a server's Python models: which there are, and which have ended or been stopped.

A server whose model's process has died goes on saying that it is ready, and never starts another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STUB = b"triton_python_backend_stub"
_STOPPED_SECONDS = 2
"""A process that is stopped for longer is not coming back by itself."""


@dataclass(frozen=True)
class ModelProcess:
    """A process of a model; a reused process id does not pass for it."""

    pid: int
    started: str
    model: str


class ModelProcesses:
    """Those that ran when the server was ready."""

    def __init__(self, server_pid: int) -> None:
        """Remember the processes that now run the models of the server."""
        self._expected = tuple(_processes(server_pid))
        self._stopped: dict[ModelProcess, float] = {}

    def failed(self) -> dict[str, str]:
        """Return what has happened to which model, of those that something has happened to."""
        failures = {}
        for process in self._expected:
            stat = _stat(process.pid)
            if stat is None or stat.started != process.started or stat.state in "ZX":
                failures[process.model] = "has ended"
            elif stat.state not in "Tt":
                self._stopped.pop(process, None)
            elif time.monotonic() - self._stopped.setdefault(process, time.monotonic()) > _STOPPED_SECONDS:
                failures[process.model] = "is stopped"
        return failures


@dataclass(frozen=True)
class _Stat:
    state: str
    started: str


def _stat(pid: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return _Stat(state=fields[0], started=fields[19])


def _processes(server_pid: int) -> Iterator[ModelProcess]:
    """Find the server's model processes; of a server that is just ending, those that are left."""
    for task in Path(f"/proc/{server_pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                stat = _stat(int(child))
                if stat is not None and words[0].endswith(_STUB):
                    yield ModelProcess(int(child), stat.started, _model_name(words))


def _model_name(words: list[bytes]) -> str:
    """Return the model that a process's command line names, whose first argument is <model>/<version>/<file>."""
    return Path(words[1].decode()).parent.parent.name
