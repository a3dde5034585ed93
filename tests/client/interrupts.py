"""For tests that interrupt a command."""

import signal


def heed_interrupts():
    """Undo, in a new process, what a shell does to those it starts in the background: they ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
