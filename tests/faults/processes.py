"""The processes of a running server, by what they are."""

from __future__ import annotations

from pathlib import Path

import psutil


def descendants(pid: int) -> set[int]:
    """The process and every one under it."""
    process = psutil.Process(pid)
    return {pid, *(child.pid for child in process.children(recursive=True))}


def model_processes(server) -> dict[str, int]:
    """The process of each model of a server, by the model's name; of several instances one."""
    found = {}
    for child in psutil.Process(server.server_pid).children():
        words = child.cmdline()
        if words and words[0].endswith("triton_python_backend_stub"):
            found[Path(words[1]).parents[1].name] = child.pid
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def resident_bytes(pid: int) -> int:
    """The resident memory of a process and all under it, without the pages of files.

    A library's pages are shared out among all that map it, so they would grow whenever another server ends.
    """
    total = 0
    for one in descendants(pid):
        rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        total += int(next(line for line in rollup.splitlines() if line.startswith("Pss_Anon:")).split()[1]) * 1024
    return total


def shared_memory_bytes(server) -> int:
    """What the server's regions in shared memory take."""
    regions = Path("/dev/shm").glob(f"ofa-serve-{server.pid}-*")
    return sum(region.stat().st_blocks * 512 for region in regions)
