"""Images through system shared memory, for a client that runs on the server's own host.

Each request in flight has a region of its own: a file in ``/dev/shm`` that the server maps once, when it is registered,
and that is written anew for every image. A region is locked while its client lives, whatever ends that: one that
nobody locks is a dead client's, and the next client removes it and its registration.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import struct
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ofa_client.connection import ConnectionSettings
from ofa_client.endpoint import Endpoint
from ofa_client.errors import (
    AccessRefusedError,
    CaptionServiceError,
    DeadlineExceededError,
    ServiceUnavailableError,
)
from ofa_client.transport import InferRequest, Transport, transport_class
from ofa_client.transport.base import SharedImage
from ofa_client.transport.refusals import deadline_exceeded

FOLDER = Path("/dev/shm")
PREFIX = "ofa-client-"
"""How the regions' files begin, and their names at the server."""

_STEP = 2**20
"""Regions are whole mebibytes, so that one serves images of many sizes."""

_LENGTH = struct.Struct("<I")
"""What the protocol puts before the bytes of an element."""

_IN_USE_SECONDS = 2.0
"""How long to wait for the server to be done with a request that was given up, before its region is left behind."""


class SharedMemoryTransport(Transport):
    """Another transport, whose images lie in shared memory instead of its messages."""

    def __init__(self, endpoint: Endpoint, settings: ConnectionSettings) -> None:
        self._server = str(endpoint)
        self._inner = transport_class(endpoint)(endpoint, settings)
        self._regions: set[_Region] = set()
        self._free: list[_Region] = []
        self._swept = False

    async def infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        """See :class:`~ofa_client.transport.base.Transport`.

        Raises:
            AccessRefusedError: the server takes no shared memory from this client.
            OSError: ``/dev/shm`` is full.
        """
        try:
            return await asyncio.wait_for(self._infer(request), request.timeout)
        except asyncio.TimeoutError as error:
            raise deadline_exceeded(request, self._server) from error

    async def _infer(self, request: InferRequest) -> dict[str, np.ndarray]:
        region = await self._take(_LENGTH.size + len(request.image))
        try:
            shared = replace(request, image=SharedImage(region.name, region.write(request.image)))
            if region.registered:
                try:
                    return await self._inner.infer(shared)
                except CaptionServiceError as error:
                    if region.name not in error.message:
                        raise  # else the server was started again and does not know it any more
            await self._register(region)
            return await self._inner.infer(shared)
        finally:
            self._free.append(region)

    async def call(self, method: str, *arguments: object) -> object:
        """See :class:`~ofa_client.transport.base.Transport`."""
        return await self._inner.call(method, *arguments)

    async def close(self) -> None:
        """Unregister and remove the regions, and close the connections."""
        await asyncio.gather(*(self._discard(region) for region in list(self._regions)))
        await self._inner.close()

    async def _take(self, size: int) -> _Region:
        """Take a free region that is large enough, or make one."""
        while self._free:
            region = self._free.pop()
            if region.size >= size:
                return region
            await self._discard(region)
        region = _Region(-(-size // _STEP) * _STEP)
        self._regions.add(region)
        return region

    async def _register(self, region: _Region) -> None:
        try:
            await self.call("register_system_shared_memory", region.name, f"/{region.name}", region.size)
        except (DeadlineExceededError, ServiceUnavailableError):
            raise
        except AccessRefusedError as error:
            raise AccessRefusedError(
                f"{self._server} takes no shared memory from this client: it was started without "
                "--shared-memory-key, or with another key"
            ) from error
        except CaptionServiceError as error:
            if "already in manager" not in error.message:  # else an earlier try's answer was lost
                raise AccessRefusedError(
                    f"{self._server} cannot use this client's shared memory ({error.message}): it has to run on this "
                    "host with the same /dev/shm, and as the same user or as root"
                ) from error
        region.registered = True
        if not self._swept:  # only now is it known that the server's /dev/shm is this one
            self._swept = True
            await self._sweep()

    async def _discard(self, region: _Region) -> None:
        self._regions.discard(region)
        try:
            await self._unregister(region.name)
        finally:
            region.remove()

    async def _unregister(self, name: str) -> None:
        """Have the server forget a region; one that is away or still uses it does so at the next sweep."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _IN_USE_SECONDS
        while True:
            try:
                await self.call("unregister_system_shared_memory", name)
                return
            except CaptionServiceError as error:
                if "in use" not in error.message or loop.time() > give_up_at:
                    return
            await asyncio.sleep(0.05)

    async def _sweep(self) -> None:
        """Remove what clients left that were killed: their files, and what the server has registered without one."""
        for path in FOLDER.glob(f"{PREFIX}*"):
            _remove_if_forsaken(path)
        with suppress(CaptionServiceError):
            status = await self.call("get_system_shared_memory_status")
            names = [one["name"] for one in status] if isinstance(status, list) else list(status.regions)
            for name in names:
                if name.startswith(PREFIX) and not (FOLDER / name).exists():
                    await self._unregister(name)


class _Region:
    """A locked file in shared memory, removed with this object or when the program ends."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.registered = False
        path, file = _create()
        self.name = path.name
        self._file = file
        self.remove = weakref.finalize(self, _remove, path, file, os.getpid())
        try:
            os.posix_fallocate(file, 0, size)  # a page that is not there when it is written would end the process
        except OSError as error:
            self.remove()
            raise OSError(error.errno, f"{size} bytes of shared memory cannot be had ({error.strerror})") from error

    def write(self, image: bytes) -> int:
        """Put an image in as the protocol wants it; returns how many bytes that takes."""
        return os.pwritev(self._file, [_LENGTH.pack(len(image)), image], 0)


def _create() -> tuple[Path, int]:
    """Make a file that is locked and not removed by another client before it was."""
    while True:
        path = FOLDER / f"{PREFIX}{secrets.token_hex(16)}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)


def _remove(path: Path, file: int, process: int) -> None:
    if os.getpid() == process:  # a forked child does not own it
        path.unlink(missing_ok=True)
    os.close(file)


def _remove_if_forsaken(path: Path) -> None:
    with suppress(OSError):  # another user's, or removed by another client meanwhile
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
