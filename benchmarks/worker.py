"""A process beside the benchmark, which ends when its standard input does."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence

MOST_SECONDS = 900
"""An answer takes less: ModelScope's pipeline captions with its largest checkpoint in a few minutes."""


class Worker:
    """One that runs; it says when it is ready in a line of its standard output.

    Args:
        command: what to run; run it by hand to see what it writes to standard error.
        variables: of its environment, beside this process's own.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        environment = {**os.environ, **(variables or {})}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1, env=environment
        )

    def ask(self, line: str, answer: str) -> str:
        """Send a line; return the next that begins with ``answer``, past what libraries print."""
        self._process.stdin.write(f"{line}\n")
        return self.read(answer)

    def read(self, start: str) -> str:
        """Return the next line that begins so.

        Raises:
            RuntimeError: it has ended, or did not answer in time and was ended.
        """
        limit = threading.Timer(MOST_SECONDS, self._process.kill)
        limit.start()
        try:
            for line in self._process.stdout:
                if line.startswith(start):
                    return line.strip()
        finally:
            limit.cancel()
        raise RuntimeError(f"{self._process.args[:3]} has ended")

    def close(self) -> None:
        """End its input, and wait for it."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
