"""The one thread that answers the public model's requests, and that sees which clients have gone or waited too long.

It is one because Triton 2.51 crashes when a request is asked whether it was cancelled after its answer was sent, or
while it is being sent. And it is one of its own because the threads that work wait in calls to the stages: whatever
becomes of those, each request is answered by its deadline.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..cancellation import CancelFlags
from ..contract import CaptionError, late
from ..metrics import OK
from .call import Call
from .triton import fault, refusal, send

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.04
"""Between two looks at who is still waiting; an answer that is ready goes out at once."""

QUESTIONS = 8
"""Requests a look that Triton is asked about, whose clients may have gone: each question waits for another process."""


@dataclass(eq=False)
class Flight:
    """One admitted request on its way.

    Attributes:
        request: Triton's; None once it is answered, as it must not be touched then.
        sender: its response sender.
        call: what it asks for.
        slot: its byte in the cancel flags, its own until the work on it has ended.
        lapsed: whether its client went or its deadline passed before it was answered.
        stage_ms: how long the stages took, by ``contract.STAGES``, once all are done; of several images the longest.
    """

    request: Any
    sender: Any
    call: Call
    slot: int
    lapsed: bool = False
    stage_ms: dict[str, float] | None = None

    def check(self) -> None:
        """Ends the work on a request that nobody waits for.

        Raises:
            CaptionError: DEADLINE_EXCEEDED.
        """
        if self.lapsed or time.monotonic() >= self.call.until:
            raise late()


class Responder:
    """Sends what the work on each flight came to, or a refusal before it comes to something."""

    def __init__(
        self,
        flags: CancelFlags,
        *,
        withdraw: Callable[[Flight], bool],
        answered: Callable[[Flight, str, str], None],
        ended: Callable[[Flight], None],
        stuck: Callable[[int], None],
        stuck_seconds: float,
    ) -> None:
        """Starts the thread, which makes these calls.

        Args:
            flags: where the beam search sees that a request is not wanted any more.
            withdraw: takes a flight back that nobody works on yet; false if that is too late.
            answered: called with each answer that was sent: ``OK``, or the refusal's code and sentence.
            ended: called once a flight is answered and the work on it has ended.
            stuck: called with the number of requests that only another start of the server would end, whenever it
                changes: those with an answer that could not be sent, and those that are stuck.
            stuck_seconds: after its deadline a flight is stuck if the work on it has still not ended. Past its
                deadline nothing of it begins any more, but the run of a stage that it is in is not cut short, and may
                lawfully take as long as a request may.
        """
        self._flags, self._withdraw, self._answered = flags, withdraw, answered
        self._ended, self._stuck, self._stuck_seconds = ended, stuck, stuck_seconds
        self._news: queue.SimpleQueue[tuple[Flight, Any] | None] = queue.SimpleQueue()
        self._waiting: dict[Flight, None] = {}
        self._abandoned: dict[Flight, None] = {}
        self._unanswered = self._stuck_count = 0
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def expect(self, flight: Flight) -> None:
        """Takes charge of a flight; its :meth:`answer` must follow."""
        self._news.put((flight, None))

    def answer(self, flight: Flight, outcome: Any) -> None:
        """Hands in what the work on a flight came to, for the only time; it is not sent if that is too late.

        Args:
            flight: one that is expected.
            outcome: Triton's response, or the error to refuse the request with.
        """
        self._news.put((flight, outcome))

    def close(self) -> None:
        """Ends the thread, after all that was handed in."""
        self._news.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_look = 0.0
        while True:
            busy = self._waiting or self._abandoned
            try:
                news = self._news.get(timeout=max(next_look - time.monotonic(), 0) if busy else None)
            except queue.Empty:
                pass
            else:
                if news is None:
                    return
                self._guarded(self._take, *news)
                del news  # it holds shared memory
            if time.monotonic() >= next_look:
                self._guarded(self._look)
                next_look = time.monotonic() + LOOK_SECONDS

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Whatever fails, the others still have to be answered, and nobody else would."""
        try:
            action(*arguments)
        except Exception:
            logger.exception("the responder failed at a request")

    def _take(self, flight: Flight, outcome: Any) -> None:
        if outcome is None:
            self._waiting[flight] = None
            return
        if flight in self._waiting:
            self._send(flight, outcome)
        else:
            del self._abandoned[flight]
            self._tell_stuck()
        self._flags.set(flight.slot, False)
        self._ended(flight)

    def _look(self) -> None:
        """Refuses what is late or cancelled, and has the search let go of it."""
        now = time.monotonic()
        for flight in [flight for flight in self._waiting if now >= flight.call.until]:
            self._give_up(flight)
        for flight in list(islice(self._waiting, QUESTIONS)):
            if _is_gone(flight):
                self._give_up(flight)
            else:
                self._waiting[flight] = self._waiting.pop(flight)  # asked last, next time
        self._tell_stuck()

    def _tell_stuck(self) -> None:
        over = time.monotonic() - self._stuck_seconds
        stuck = self._unanswered + sum(flight.call.until < over for flight in self._abandoned)
        if stuck != self._stuck_count:
            self._stuck_count = stuck
            self._stuck(stuck)

    def _give_up(self, flight: Flight) -> None:
        flight.lapsed = True
        self._send(flight, late())
        if self._withdraw(flight):
            self._ended(flight)
        else:
            self._flags.set(flight.slot, True)
            self._abandoned[flight] = None

    def _send(self, flight: Flight, outcome: Any) -> None:
        del self._waiting[flight]
        sender, flight.sender, flight.request = flight.sender, None, None
        refused = isinstance(outcome, CaptionError)
        try:
            send(sender, refusal(outcome) if refused else outcome)
        except Exception:  # Triton takes no second answer, so this client waits until the server is ended
            fault("an answer could not be sent")
            self._unanswered += 1
            self._tell_stuck()
        else:
            self._guarded(self._answered, flight, *((outcome.code, outcome.message) if refused else (OK, "")))


def _is_gone(flight: Flight) -> bool:
    try:
        return flight.request.is_cancelled()
    except Exception:  # Triton may lack shared memory for the question; the deadline holds without it
        return False
