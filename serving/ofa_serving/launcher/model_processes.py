"""The processes that run a server's Python models: which there are, and which have ended or been stopped.

A server whose model's process has died goes on saying that it is ready, and never starts another.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STUB = b"triton_python_backend_stub"
_SHORT_STUB = _STUB[:15].decode()
"""What the kernel calls it: all that is left of one that has ended and that the server does not miss."""

_STOPPED_SECONDS = 0.5
"""A process that is stopped for longer is not coming back by itself; after a second, Triton would say so to clients."""


@dataclass(frozen=True)
class ModelProcess:
    """A process of a model, or of an unknown one; a reused process id does not pass for it."""

    pid: int
    started: str
    model: str | None


class ModelProcesses:
    """Those of one run of a server, none until they are found."""

    def __init__(self) -> None:
        """Find none yet."""
        self._expected: list[ModelProcess] = []
        self._stopped: dict[ModelProcess, float] = {}
        self._ends = select.poll()
        self._descriptors: list[int] = []

    def find(self, server_pid: int) -> None:
        """Remember the processes that now run the models of the server."""
        for process in _processes(server_pid):
            self._expected.append(process)
            with contextlib.suppress(OSError):  # it has just ended, or the kernel has none: failed() tells either way
                self._descriptors.append(os.pidfd_open(process.pid))
                self._ends.register(self._descriptors[-1], select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until one has ended."""
        self._ends.poll(1000 * seconds)

    def close(self) -> None:
        """Let go of the processes."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    @property
    def failure(self) -> str | None:
        """What has happened to which of them, in words; None if nothing has."""
        named = ((f"model {model}" if model else "a model", what) for model, what in self.failed().items())
        return "; ".join(f"the process of {model} {what}" for model, what in named) or None

    def failed(self) -> dict[str | None, str]:
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
    name: str
    state: str
    parent: int
    started: str


def _stat(pid: int) -> _Stat | None:
    try:  # the kernel cuts a name within a letter
        start, _, end = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")
    except OSError:
        return None
    fields = end.split()
    return _Stat(name=start.partition("(")[2], state=fields[0], parent=int(fields[1]), started=fields[19])


def _processes(server_pid: int) -> Iterator[ModelProcess]:
    """Find the server's model processes by their parent; of a server that is just ending, those that are left.

    Not by its threads' lists of children: a child whose thread ends meanwhile moves to another's and may be missed.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = _stat(int(folder.name))
            if stat is None or stat.parent != server_pid:
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(_STUB):
                yield ModelProcess(int(folder.name), stat.started, _model_name(words))
            elif stat.state == "Z" and stat.name == _SHORT_STUB:
                yield ModelProcess(int(folder.name), stat.started, None)


def _model_name(words: list[bytes]) -> str:
    """Return the model that a process's command line names, whose first argument is <model>/<version>/<file>."""
    return Path(words[1].decode()).parent.parent.name
