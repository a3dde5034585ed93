"""Programs that tests run: the system's, or those that ``scripts/debian`` unpacked for ``make test``."""

import os
import shutil
import sys
from pathlib import Path

import pytest

_UNPACKED = Path(sys.prefix) / "debian/usr"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(_UNPACKED / "sbin"), str(_UNPACKED / "bin")])


def find(name: str) -> str | None:
    """Where it is; None if it is not."""
    return shutil.which(name, path=_PATH)


def need(name: str) -> str:
    """Where it is; the test is skipped if it is not."""
    return find(name) or pytest.skip(missing(name))


def missing(name: str) -> str:
    """Why a test without it is skipped."""
    return f"there is no {name}, and scripts/debian could not fetch it"
