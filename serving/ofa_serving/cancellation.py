"""How the public model tells its stages that a client has gone: a byte a request, in memory that all of them map.

They are processes of their own, a call between them cannot be taken back, and a second call to say so would queue
behind others. A byte is read in well under a microsecond, so the search looks before every step, and the preprocessing
before every image.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from typing import Self

from .contract import CaptionError, Code

CANCEL_VARIABLE = "OFA_CANCEL_FILE"
"""Environment variable with the start of the files' names. The models' processes inherit it from the launcher; without
it a client's going is noticed only between the stages."""

SLOT_PARAMETER = "cancel_slot"
"""The parameter that names a request's byte in the public model's calls to the stages that look at it."""

SLOTS = 4096
"""Bytes in the file; more than a public model ever has requests."""


class CancelFlags:
    """The bytes of one public model's requests; every process that opens them sees the same."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @classmethod
    def open(cls, model: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Maps the flags, by the name of the beam search, or makes them; shared only under a launcher."""
        start = environ.get(CANCEL_VARIABLE)
        if not start:
            return cls(mmap.mmap(-1, SLOTS))
        descriptor = os.open(f"{start}-{model}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SLOTS)  # a byte that has no memory yet would be a crash, not an error
            return cls(mmap.mmap(descriptor, SLOTS))
        finally:
            os.close(descriptor)

    def set(self, slot: int, value: bool) -> None:
        """Says whether the request of ``slot`` is cancelled."""
        self._memory[slot] = value

    def __getitem__(self, slot: int) -> bool:
        return bool(self._memory[slot])

    def cancelled(self, slot: object) -> Callable[[], bool]:
        """Whether the public model has given the request of ``slot`` up; a request without one is never given up.

        Raises:
            CaptionError: INVALID_PARAMETER; it is no slot.
        """
        if slot is None:
            return lambda: False
        if not isinstance(slot, int) or not 0 <= slot < SLOTS:
            raise CaptionError(Code.INVALID_PARAMETER, f"{SLOT_PARAMETER} is not for clients")
        return lambda: self[slot]
