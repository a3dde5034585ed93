"""Finds a Triton that is installed on this machine, as in NVIDIA's container, instead of the embedded one.

It has backends of its own, so nothing is laid out and nothing is written: it runs on a read-only file system.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.errors import LaunchError


def find(folder: Path) -> Installation:
    """Return the Triton under ``folder``, NVIDIA's ``/opt/tritonserver`` for example.

    Its Python models run in this process's environment: their processes take the packages of the ``python3`` that
    ``PATH`` leads to.

    Raises:
        LaunchError: there is none.

    """
    binary, backends = folder / "bin/tritonserver", folder / "backends"
    if not binary.is_file() or not (backends / "python").is_dir():
        raise LaunchError(f"{folder} holds no Triton with a Python backend: correct --triton, or leave it out")
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return Installation(binary, backends, {**os.environ, "PATH": path})
