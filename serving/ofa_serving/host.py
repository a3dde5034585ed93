"""What this machine has that built engines depend on: versions of packages, and its GPU."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
from dataclasses import dataclass

_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime")}
"""The first that is installed is the one that runs: the GPU's is put over the CPU's."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as plans are tied to it; ``compute_capability`` is ``"9.0"`` for an H200."""

    name: str
    compute_capability: str


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, under whichever of its distributions' names; None if absent."""
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return None


def visible_gpu() -> Gpu | None:
    """Return the first GPU the driver shows, or None without a GPU or its driver."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, capability = listing.strip().split("\n")[0].rpartition(", ")
    return Gpu(name, capability) if name else None
