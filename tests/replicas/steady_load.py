"""Requests at a steady rate through one client: what it sees while servers come and go."""

import asyncio
import threading
import time
from collections import Counter

from ofa_client import AsyncCaptioner, CaptionServiceError

IN_FLIGHT = 12


class SteadyLoad:
    """Sends from entering the context until leaving it, and then waits for every answer.

    A request is due every ``1 / rate`` seconds; one that finds too many unanswered is left out, so that a slow machine
    is not taken for a broken server. The client tries nothing again: what it sees, the proxy let through.

    Args:
        url: where to.
        model: whose captions.
        images: sent in turn.
        rate: requests a second at most.

    """

    def __init__(self, url, model, images, rate=8):
        self._url, self._model, self._images, self._pause = url, model, images, 1 / rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self.outcomes = Counter()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        self._thread.join(300)
        assert not self._thread.is_alive()

    @property
    def answered(self):
        """Captions so far."""
        return self.outcomes["OK"]

    def wait_for(self, more, seconds=300):
        """Waits until so many more captions have come."""
        enough, deadline = self.answered + more, time.monotonic() + seconds
        while self.answered < enough:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.05)

    async def _run(self):
        room = asyncio.Semaphore(IN_FLIGHT)
        number = 0
        async with (
            AsyncCaptioner(self._url, model=self._model, retry=None, timeout=60) as captioner,
            asyncio.TaskGroup() as tasks,
        ):
            while not self._ended.is_set():
                await asyncio.sleep(self._pause)
                if room.locked():
                    continue
                await room.acquire()
                image = self._images[number % len(self._images)]
                number += 1
                tasks.create_task(self._send(captioner, image, room))

    async def _send(self, captioner, image, room):
        try:
            await captioner.caption(image)
            self.outcomes["OK"] += 1
        except CaptionServiceError as error:
            self.outcomes[f"{error.code}: {error}"] += 1
        finally:
            room.release()
