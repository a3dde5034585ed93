"""How many cores this process may keep busy: what the engines' thread counts follow."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """The cores that the process may run on, or fewer where a container's CPU limit gives it less time; at least 1.

    Libraries count the machine's cores instead. Under a limit of 2 cores on a machine of 64, their 64 threads use the
    period's time up at once and then stand still until the next one.

    Args:
        cgroups: where the kernel shows the limits, of either version of control groups.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """The limit in cores, None without one."""
    try:
        if (cgroups / "cpu.max").exists():
            limit, period = (cgroups / "cpu.max").read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        limit, period = (int((cgroups / f"cpu/cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return None if limit < 0 else limit / period
    except (OSError, ValueError):  # no control groups here, or not as they are documented
        return None
