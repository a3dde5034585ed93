"""Who may enter the public model: so many images and bytes at a time, and nobody once the server is stopping."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .contract import CaptionError, Code
from .draining import DRAIN_VARIABLE
from .waiting import BATCH_SHARE, PriorityClass

IN_TIME = 0.8
"""The part of the longest time that a request may take in which the last one admitted is to be answered."""

_LONGEST_RETRY = 30
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Load:
    """What a request adds to what is in flight."""

    images: int = 1
    bytes: int = 0


ONE = Load()
"""A request of one image."""


class Admission:
    """Counts what is in flight, for a model of one instance, whose count it is."""

    def __init__(
        self,
        max_images: int,
        max_bytes: float = math.inf,
        max_seconds: float = math.inf,
        at_once: int = 1,
        changed: Callable[[int, int], None] = lambda _requests, _images: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Nothing is in flight yet.

        Args:
            max_images: images that may be in flight.
            max_bytes: bytes of images that may be in flight. A request that is alone may have more: it is not for
                want of room that it has to be refused.
            max_seconds: a request may take. What would be answered later at the pace of late is refused at once: all
                that a slow server admits would come too late otherwise.
            at_once: images that may be captioned in one go: that long nothing comes of any of them.
            changed: called with the numbers of requests and images in flight whenever they change.
            environ: says where the file is whose being there means that the server is stopping.
        """
        self._max_images, self._max_bytes, self._max_seconds = max_images, max_bytes, max_seconds
        self._requests = self._images = self._bytes = 0
        self._pace, self._at_once = _Pace(), at_once
        self._lock = threading.Lock()
        self._drain = Path(environ[DRAIN_VARIABLE]) if environ.get(DRAIN_VARIABLE) else None
        self._changed = changed

    def enter(
        self,
        load: Load = ONE,
        priority: PriorityClass = PriorityClass.INTERACTIVE,
        seconds: float = math.inf,
    ) -> None:
        """Admits one request, whose :meth:`leave` must follow once its answer is sent.

        Args:
            load: what it adds.
            priority: who waits for it.
            seconds: until its own deadline.

        Raises:
            CaptionError: OVERLOADED; the request does not count.
        """
        with self._lock:
            if self._drain is not None and self._drain.exists():
                raise CaptionError(Code.OVERLOADED, "the server is stopping; send the request again, to another")
            if not self._fits(load, BATCH_SHARE if priority is PriorityClass.BATCH else 1, seconds):
                later = self._pace.seconds(self._images)
                raise CaptionError(Code.OVERLOADED, f"too many images are being captioned; try again in {later} s")
            if not self._requests:
                self._pace.begin()
            self._change(load, 1)

    def leave(self, load: Load = ONE, took: float = math.inf, captioned: bool = True) -> None:
        """Counts one request less. Call it after the answer has been sent: at zero the server may end.

        Args:
            load: as it entered.
            took: seconds since its arrival.
            captioned: whether it has its captions. One that has none says little of how long they take: a server from
                which most are given up would be believed the fastest.
        """
        with self._lock:
            if captioned:
                self._pace.note(load.images, took)
            else:
                self._pace.note_none(self._at_once, took)
            self._change(load, -1)

    def _fits(self, load: Load, share: float, seconds: float) -> bool:
        if not self._requests:
            return True
        images, size = self._images + load.images, self._bytes + load.bytes
        in_time = images * self._pace.interval <= share * IN_TIME * min(seconds, self._max_seconds)
        return images <= share * self._max_images and size <= share * self._max_bytes and in_time

    def _change(self, load: Load, sign: int) -> None:
        self._requests += sign
        self._images += sign * load.images
        self._bytes += sign * load.bytes
        self._changed(self._requests, self._images)


class _Pace:
    """How long an image takes of late: what tells the refused when to come again.

    Attributes:
        interval: seconds; 0 until it is known.
    """

    def __init__(self) -> None:
        self.interval, self._last, self._noted = 0.0, 0.0, 0

    def begin(self) -> None:
        """An idle server gets something to do. The pace it had stays, until there is news of it."""
        self._last, self._noted = time.monotonic(), 0

    def note(self, images: int, took: float) -> None:
        """Some images are captioned; the time since the last ones were counts, if these took as long."""
        now = time.monotonic()
        if self._last < now:
            self._noted += 1
            seconds = min(now - self._last, took)
            self.interval += max(_SMOOTHING, 1 / self._noted) * (seconds / images - self.interval)
        self._last = now

    def note_none(self, images: int, took: float) -> None:
        """A request was given up while not even so many images could be captioned, which takes that long at least.

        Else nothing would ever be known of a server whose every caption is late.
        """
        self.interval = max(self.interval, min(time.monotonic() - self._last, took) / images)

    def seconds(self, images: int) -> int:
        """Whole seconds until so many images are done."""
        return min(max(math.ceil(images * self.interval), 1), _LONGEST_RETRY)
