"""Becomes another program, and has the kernel terminate it when the launcher dies: ``python tether.py PID PROGRAM …``.

A program of its own because what changes a child before it starts is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent ``PID``, then become ``PROGRAM``."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)
    os.execvp(program, sys.argv[2:])


if __name__ == "__main__":
    main()
