"""Becomes another program, as a child of the launcher should be: ``python tether.py PID PROGRAM …``.

The kernel terminates it when the launcher dies, and its threads have deep stacks. A program of its own because what
changes a child before it starts is not safe in a process with threads.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_STACK_BYTES = 48 * 2**20
"""Of each thread, taken only as it is used. The HTTP library of Triton 2.51 puts a body that is sent as a form, as curl
and Python's ``urllib`` do unasked, on the stack twice: with the usual 8 MiB, 4 MB crash the server. An image has 20 MiB
at most."""


def main() -> None:
    """Tie this process to its parent ``PID``, then become ``PROGRAM``."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)
    _deepen_stacks()
    os.execvp(program, sys.argv[2:])


def _deepen_stacks() -> None:
    usual, most = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = _STACK_BYTES if most == resource.RLIM_INFINITY else min(_STACK_BYTES, most)
    if usual == resource.RLIM_INFINITY or usual < wanted:  # threads take 2 MiB where there is no limit
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, most))


if __name__ == "__main__":
    main()
