"""The server's shared memory: how much it needs, whose it is, and sweeping what a killed server left.

The Python backend gives each instance of a model a region ``/dev/shm/<prefix><uuid>`` and removes it when it stops
cleanly; a killed server leaves it for good. Each server here has a prefix of its own with a lock file beside its
regions. Its launcher holds the lock until it ends, however it ends, so a region whose lock is free belongs to nobody:
no process id to be reused, and containers that share ``/dev/shm`` cannot mistake each other's.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ofa_serving.launcher.errors import LaunchError

FOLDER = Path("/dev/shm")
OWN = "ofa-serve-"
LOCK = "lock"

REGION_BYTES = 2**20
"""What each instance's region starts with."""

HEADROOM = 1.5
"""A region was seen to grow to 1.0 to 1.43 times the tensors in it; it never shrinks."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelMemory:
    """What one Python model keeps in shared memory at its busiest; ``bytes_each`` is of a request and its response."""

    instances: int
    in_flight: int
    bytes_each: int


def required_bytes(models: Iterable[ModelMemory]) -> int:
    """Return the shared memory that a server of these models needs under full load: what ``/dev/shm`` must hold."""
    return sum(
        model.instances * (REGION_BYTES + round(HEADROOM * model.in_flight * model.bytes_each)) for model in models
    )


def check_room(models: Sequence[ModelMemory], folder: Path = FOLDER) -> None:
    """Refuse to start where not even one request at a time would fit; warn where the busiest hour would not.

    Raises:
        LaunchError: there is too little room, or no such folder.

    """
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise LaunchError(f"shared memory at {folder} cannot be used: {error.strerror}") from error
    free = status.f_bavail * status.f_frsize
    required = required_bytes(models)
    minimum = required_bytes(replace(model, in_flight=1) for model in models)
    if free < required:
        message = (
            f"{folder} has {free / 2**20:.0f} MiB free and the models need {required / 2**20:.0f} MiB under full load; "
            "give it more (docker run --shm-size, or an emptyDir with medium: Memory)"
        )
        if free < minimum:
            raise LaunchError(message)
        logger.warning("%s; until then some requests will fail", message)


@contextlib.contextmanager
def own_regions(folder: Path = FOLDER) -> Iterator[str]:
    """Hold a new prefix for a server's regions, and remove what is left of them at the end.

    Yields:
        the prefix, for the Python backend's ``shm-region-prefix-name``.

    Raises:
        LaunchError: ``folder`` cannot be written.

    """
    try:
        prefix, descriptor = _new_lock(folder)
    except OSError as error:
        raise LaunchError(f"shared memory at {folder} cannot be used: {error.strerror}") from error
    try:
        yield prefix
    finally:
        _remove(folder, prefix)
        os.close(descriptor)


def sweep(folder: Path = FOLDER) -> list[str]:
    """Remove the regions of servers of ours that are gone, and end what is left of their processes.

    Returns:
        the names removed, lock files not among them.

    """
    removed = []
    for lock in sorted(folder.glob(f"{OWN}*-{LOCK}")):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:  # gone since, or kept from others
            continue
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed += _remove(folder, lock.name.removesuffix(LOCK))
        except BlockingIOError:  # its server runs
            continue
        finally:
            os.close(descriptor)
    if removed:
        logger.info("removed %d shared memory regions that a killed server left", len(removed))
    return removed


def _new_lock(folder: Path) -> tuple[str, int]:
    while True:
        prefix = f"{OWN}{os.getpid()}-{secrets.token_hex(4)}-"
        descriptor = os.open(folder / f"{prefix}{LOCK}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return prefix, descriptor
        os.close(descriptor)  # another launcher swept it between the two calls


def _remove(folder: Path, prefix: str) -> list[str]:
    """Remove the regions of ``prefix``, whose lock the caller holds, then the lock; return the regions' names."""
    _end_orphans(prefix)
    names = []
    for region in folder.glob(f"{prefix}*"):
        if not region.name.endswith(LOCK):
            names.append(region.name)
            region.unlink(missing_ok=True)
    (folder / f"{prefix}{LOCK}").unlink(missing_ok=True)
    return names


def _end_orphans(prefix: str) -> None:
    """Kill the Python backend's processes that work in regions of ``prefix``: some outlive a killed server."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            words = (process / "cmdline").read_bytes().split(b"\0")
            is_stub = words[0].endswith(b"/triton_python_backend_stub")
            if is_stub and any(word.startswith(prefix.encode()) for word in words[1:]):
                os.kill(int(process.name), signal.SIGKILL)
