"""What ``scripts/with-server`` tells the command it runs."""

from __future__ import annotations

import os
import sys


def required_variable(variable: str) -> str:
    """An environment variable's value; without it the process ends with a line that says so."""
    value = os.environ.get(variable)
    if not value:
        sys.exit(f"{variable} is not set: the first lines of this benchmark say how it is run")
    return value
