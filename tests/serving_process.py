"""Starts ``ofa-serve`` for a test, on free ports, and stops it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ofa_serving.launcher import tether

_READY = re.compile(r"^ready (\S+) (http://\S+) grpc://(\S+) (http://\S+)$")

_SHOWN = 4000


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for what must come about soon; the bound is against waiting for ever, on the slowest of machines."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class ServerProcess:
    """A launcher and its server, from entering the context until leaving it.

    Args:
        artifacts: the folder with the built checkpoints.
        names: those to serve.
        work: where the log and the run folder go.
        flags: more of the launcher's flags; later ones win.
        within: a command that runs the launcher as its last words, in surroundings of its own.

    """

    def __init__(
        self, artifacts: Path, names: Sequence[str], work: Path, flags: Sequence[str] = (), within: Sequence[str] = ()
    ) -> None:
        free = [f"--{listener}-port=0" for listener in ("http", "grpc", "metrics")]
        folders = [f"--artifacts={artifacts}", f"--run-folder={work / 'run'}"]
        launcher = [sys.executable, "-m", "ofa_serving.launcher"]
        self._command = [*within, *launcher, *names, *folders, *free, *flags]
        self.log_path = work / "server.log"
        self.http_url = self.grpc_url = self.metrics_url = ""

    def __enter__(self) -> Self:
        self.start()
        if not self.wait_until_ready():
            raise AssertionError(f"the server did not start:\n{self.log()[-_SHOWN:]}")
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    @property
    def server_pid(self) -> int:
        """The process id of ``tritonserver``."""
        return int(re.findall(r"started tritonserver, process (\d+)", self.log())[-1])

    def start(self) -> None:
        """Start the launcher, and return at once. A test run that crashes leaves no server behind."""
        lasting = threading.current_thread() is threading.main_thread()  # its end is what the tether would notice
        tied = [sys.executable, tether.__file__, str(os.getpid())] if lasting else []
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*tied, *self._command],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def wait_until_ready(self, seconds: float = 300) -> bool:
        """Read the launcher's line; False if it ended without one, or wrote none in time and was killed."""
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if found := _READY.match(line):
            _, self.http_url, self.grpc_url, self.metrics_url = found.groups()
        return bool(found)

    def stop_reading(self) -> None:
        """Close the launcher's standard output, as a reader does that has seen enough."""
        self._process.stdout.close()

    def log(self) -> str:
        """Everything the launcher and the server have logged so far."""
        return self.log_path.read_text(errors="replace")

    def last_line(self) -> str:
        """The last line of the log: the reason, if it failed."""
        return self.log().rstrip().rpartition("\n")[2]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples, right now; of those that have the labels."""
        wanted = "".join(rf'(?=.*\b{key}="{value}")' for key, value in labels.items())
        with urllib.request.urlopen(self.metrics_url, timeout=60) as answer:
            samples = re.findall(rf"^{name}{wanted}(?:{{.*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        if not samples:
            raise AssertionError(f"the server has no metric {name}")
        return sum(map(float, samples))

    def send_signal(self, number: signal.Signals) -> None:
        """Send the launcher a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 120) -> int:
        """Wait until the launcher has ended; its exit code."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """Stop it as a user would; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._process.stdout.close()
