"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from typing import TextIO

_REDRAW_SECONDS = 0.2
_PLAIN_SECONDS = 30.0
_RATE_SECONDS = 30.0


def offer(stream: TextIO, text: str) -> None:
    """Write what a run can do without; where nobody takes it, or the disk is full, no more of it is shown."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what is buffered would fail again, and when the process ends
        os.close(nowhere)


class Progress:
    """Shows counts, rate and time left on a text stream.

    ``total`` may be set late, when the images have been counted; until then no time left is shown. Images that an
    earlier run did are counted in ``already``, not in the rate; some may be other images than this run's, so that no
    more than ``total`` are shown as done.
    """

    def __init__(self, stream: TextIO, already: int = 0) -> None:
        self.total: int | None = None
        self._stream = stream
        self._bar = stream.isatty()
        self._every = _REDRAW_SECONDS if self._bar else _PLAIN_SECONDS
        self._already = already
        self._captioned = self._failed = 0
        self._begun = self._shown = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._begun, 0)])

    def add(self, *, failed: bool = False) -> None:
        """Count one image, and show the line if it is time."""
        self._failed += failed
        self._captioned += not failed
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._show(now)

    def close(self) -> None:
        """Show the line for the last time."""
        self._show(time.monotonic())
        if self._bar:
            offer(self._stream, "\n")

    def _show(self, now: float) -> None:
        self._shown = now
        text = self.line(now)
        if self._bar:
            width = shutil.get_terminal_size().columns - 1
            text = f"\r{text[:width]:<{width}}"
        offer(self._stream, text if self._bar else f"{text}\n")

    def line(self, now: float) -> str:
        """Write the state out, as of a time of ``time.monotonic()``."""
        here = self._captioned + self._failed
        done = self._already + here
        rate = self._rate(now, here)
        parts = [f"{done} images"]
        if self.total is not None:
            done = min(done, self.total)
            share = done / self.total if self.total else 1.0
            parts = [f"{_blocks(share)} {share:4.0%}  {done}/{self.total}"]
        parts.append(f"{rate:.1f}/s")
        if self.total is not None and rate:
            parts.append(f"{_clock((self.total - done) / rate)} left")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return "  ".join(parts)

    def _rate(self, now: float, here: int) -> float:
        """Images a second over the last half minute."""
        self._marks.append((now, here))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_SECONDS:
            self._marks.popleft()
        since, before = self._marks[0]
        return (here - before) / (now - since) if now > since else 0.0


def _blocks(share: float) -> str:
    filled = round(share * 20)
    return "#" * filled + "-" * (20 - filled)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
