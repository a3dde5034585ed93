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
from .waiting import PriorityClass

BATCH_SHARE = 0.5
"""The part of the room that requests of the batch class may take; the rest is kept for interactive ones."""

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
        changed: Callable[[int], None] = lambda _requests: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Nothing is in flight yet.

        Args:
            max_images: images that may be in flight.
            max_bytes: bytes of images that may be in flight. A request that is alone may have more: it is not for
                want of room that it has to be refused.
            changed: called with the number of requests in flight whenever it changes.
            environ: says where the file is whose being there means that the server is stopping.
        """
        self._max_images, self._max_bytes = max_images, max_bytes
        self._requests = self._images = self._bytes = 0
        self._pace = _Pace()
        self._lock = threading.Lock()
        self._drain = Path(environ[DRAIN_VARIABLE]) if environ.get(DRAIN_VARIABLE) else None
        self._changed = changed

    def enter(self, load: Load = ONE, priority: PriorityClass = PriorityClass.INTERACTIVE) -> None:
        """Admits one request, whose :meth:`leave` must follow once its answer is sent.

        Raises:
            CaptionError: OVERLOADED; the request does not count.
        """
        with self._lock:
            if self._drain is not None and self._drain.exists():
                raise CaptionError(Code.OVERLOADED, "the server is stopping; send the request again, to another")
            if not self._fits(load, BATCH_SHARE if priority is PriorityClass.BATCH else 1):
                seconds = self._pace.seconds(self._images)
                raise CaptionError(Code.OVERLOADED, f"too many images are being captioned; try again in {seconds} s")
            self._change(load, 1)

    def leave(self, load: Load = ONE) -> None:
        """Counts one request less. Call it after the answer has been sent: at zero the server may end."""
        with self._lock:
            self._change(load, -1)
            self._pace.note(load.images, idle=not self._requests)

    def _fits(self, load: Load, share: float) -> bool:
        if not self._requests:
            return True
        images, size = self._images + load.images, self._bytes + load.bytes
        return images <= share * self._max_images and size <= share * self._max_bytes

    def _change(self, load: Load, sign: int) -> None:
        self._requests += sign
        self._images += sign * load.images
        self._bytes += sign * load.bytes
        self._changed(self._requests)


class _Pace:
    """How long an image takes of late while others wait: what tells the refused when to come again."""

    def __init__(self) -> None:
        self._interval, self._last = 0.0, math.inf

    def note(self, images: int, *, idle: bool) -> None:
        """Some images are done; the time until the next ones counts unless the server is idle now."""
        now = time.monotonic()
        if self._last < now:
            self._interval += _SMOOTHING * ((now - self._last) / images - self._interval)
        self._last = math.inf if idle else now

    def seconds(self, images: int) -> int:
        """Whole seconds until so many images are done."""
        return min(max(math.ceil(images * self._interval), 1), _LONGEST_RETRY)
