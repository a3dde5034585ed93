"""Many clients at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Self


class Crowd:
    """Runs each client in a thread of its own, from entering the context until leaving it.

    Args:
        clients: what each does, over and over until ``ended`` is set.

    """

    def __init__(self, clients: Sequence[Callable[[], None]]) -> None:
        self._threads = [threading.Thread(target=client) for client in clients]
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
