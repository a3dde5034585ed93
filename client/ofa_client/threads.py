"""Calls that block, in threads that keep nobody waiting: neither each other nor the end of the process."""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress
from typing import Any, Callable, TypeVar

_T = TypeVar("_T")
_Calls = queue.SimpleQueue  # of functions

_AT_ONCE = 32

_STUCK_SECONDS = 5.0
"""After so long a call, such as the reading of a pipe that nobody writes to, gives its place to the next one."""

_IDLE_SECONDS = 10.0
"""After so long without a call a thread ends."""


class Threads:
    """Daemon threads for blocking calls; bound to the event loop that runs when it is made.

    A pool of the standard library is waited for when the process ends, and used up by calls that never return.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._idle: list[_Calls] = []

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Await a blocking call; if this is cancelled, the call is left to itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(setter: Callable[[Any], None], value: object) -> None:
            if not future.done():
                setter(value)

        def work() -> None:
            setter: Callable[[Any], None] = future.set_result
            value: object
            try:
                value = call(*arguments)
            except BaseException as error:
                setter, value = future.set_exception, error
            self._idle.append(calls)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, setter, value)

        try:
            async with self._places:
                calls = self._thread()
                calls.put(work)
                await asyncio.wait([future], timeout=_STUCK_SECONDS)
            return await future
        finally:
            future.cancel()

    def _thread(self) -> _Calls:
        """Take one that has nothing to do, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            calls: _Calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(calls, self._idle), name="ofa-client-call", daemon=True).start()
            return calls


def _serve(calls: _Calls, idle: list[_Calls]) -> None:
    while True:
        try:
            calls.get(timeout=_IDLE_SECONDS)()
        except queue.Empty:
            with suppress(ValueError):  # it is about to be given a call
                idle.remove(calls)
                return
