"""Waiting for what must come about."""

import time


def eventually(condition, seconds=120):
    """Try until it holds; an assertion fails if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)  # for whoever brings it about
