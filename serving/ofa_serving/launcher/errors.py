"""What stops a launch."""

from __future__ import annotations


class LaunchError(Exception):
    """The server cannot start, or has failed; ``str(error)`` is one line that tells its operator why."""
