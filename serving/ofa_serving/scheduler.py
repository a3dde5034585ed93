"""In-flight batching: captions join a running beam search at any step, and leave it the moment they are done."""

from __future__ import annotations

import logging
import queue
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .beam_search import BeamSearches, Hypothesis, SpecialTokens
from .contract import CaptionError, Code, Fault, late
from .engines.base import SHORT_REACH, DecoderBatch, DecoderEngine
from .engines.device import Array
from .generation import GenerationConfig
from .waiting import PriorityClass

log = logging.getLogger(__name__)

BATCH_PATIENCE = 5.0
"""Seconds by which a caption of the batch class may be older than an interactive one that joins a search before it.

It is bounded: such a caption is encoded, and that work would be lost if it waited until it lapses.
"""


@dataclass(frozen=True)
class SearchResult:
    """A finished search: its hypotheses, best first, and how long it waited and ran, in milliseconds."""

    hypotheses: list[Hypothesis]
    queue_ms: float
    search_ms: float


@dataclass
class Job:
    """One caption to search for.

    Attributes:
        hidden: the encoder's states [N, d], on the host or where the engine keeps its memory.
        settings: of its search.
        deadline: on the monotonic clock, in seconds.
        done: called once, from the scheduler's thread, with the result or the refusal. It must not block.
        cancelled: whether nobody waits for the caption any more; asked once a step, so it must be cheap.
        priority: who waits for it.
    """

    hidden: Array
    settings: GenerationConfig
    deadline: float
    done: Callable[[SearchResult | CaptionError], None]
    cancelled: Callable[[], bool] = lambda: False
    priority: PriorityClass = PriorityClass.INTERACTIVE
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0

    @property
    def turn(self) -> float:
        """Those with the lowest join first."""
        return self.arrived + (BATCH_PATIENCE if self.priority is PriorityClass.BATCH else 0)

    def lapse(self, now: float) -> CaptionError | None:
        """Why the search need not go on at ``now``, if that is so."""
        if self.cancelled():
            return CaptionError(Code.DEADLINE_EXCEEDED, "the client stopped waiting for the caption")
        if now >= self.deadline:
            return late()
        return None

    def answer(self, result: SearchResult | CaptionError) -> None:
        """Calls ``done``; a fault in it must not take the other captions down."""
        try:
            self.done(result)
        except Exception:
            log.exception("an answer could not be delivered")


class Scheduler:
    """Runs one decoder engine for many captions at a time, in a thread of its own.

    Captions of one beam size are stepped together, each at its own position; beam sizes take turns.
    """

    def __init__(self, engine: DecoderEngine, special: SpecialTokens, *, max_captions: int, max_pending: int) -> None:
        """Starts the thread.

        Args:
            engine: decodes.
            special: the vocabulary's special tokens.
            max_captions: captions that are searched at the same time.
            max_pending: captions that may wait; one more is refused with OVERLOADED.
        """
        self._engine, self._special = engine, special
        self._max_captions, self._max_pending = max_captions, max_pending
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._pending: deque[Job] = deque()  # by their turns
        self._groups: dict[int, _Group] = {}
        self._admission = threading.Lock()
        self._waiting = 0
        self.steps = self.rows = self.tokens = 0  # decoder runs; hypotheses and captions taken one token further
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="beam-search", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Captions that were submitted and have not joined a search yet."""
        return self._waiting

    @property
    def searching(self) -> int:
        """Captions being searched."""
        return sum(len(group.jobs) for group in list(self._groups.values()))  # whole at once: other threads ask

    def submit(self, jobs: list[Job]) -> None:
        """Takes the captions of one request, all or none.

        Raises:
            CaptionError: OVERLOADED.
        """
        with self._admission:
            if self._closed or self._waiting + len(jobs) > self._max_pending:
                raise CaptionError(Code.OVERLOADED, "too many captions are waiting; try again later")
            self._waiting += len(jobs)
        for job in jobs:
            self._arrivals.put(job)

    def close(self) -> None:
        """Finishes what was submitted, then ends the thread."""
        with self._admission:
            self._closed = True
        self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._receive():
            self._drop_lapsed()
            self._join()
            self._step()
            self._drop_long()

    def _step(self) -> None:
        """Takes every group one step further. No name of a group outlives it: its caches are to go when it does."""
        for beam_size, group in list(self._groups.items()):
            self._count(group.jobs)
            self._guarded(group.step, beam_size)

    def _count(self, jobs: list[Job]) -> None:
        if jobs:
            self.steps += 1
            self.rows += len(jobs) * jobs[0].settings.beam_size
            self.tokens += len(jobs)

    def _receive(self) -> bool:
        """Moves arrivals to the pending ones, sleeping while there is nothing to do; false when all is done."""
        while True:
            idle = not self._pending and not self.searching
            if idle and self._closed and self._arrivals.empty():
                return False
            try:
                job = self._arrivals.get(block=idle)
            except queue.Empty:
                return True
            if job is not None:
                insort(self._pending, job, key=lambda pending: pending.turn)

    def _drop_lapsed(self) -> None:
        """Answers pending captions that are late or cancelled: they must not wait for room to be told so."""
        now, still = time.monotonic(), deque()
        for job in self._pending:
            if refusal := job.lapse(now):
                self._leave_queue()
                job.answer(refusal)
            else:
                still.append(job)
        self._pending = still

    def _join(self) -> None:
        """Lets pending captions join in their turn, as far as there is room."""
        room, now = self._max_captions - self.searching, time.monotonic()
        joining: dict[int, list[Job]] = {}
        while self._pending and room > 0:
            job = self._pending.popleft()
            self._leave_queue()
            job.started = now
            joining.setdefault(job.settings.beam_size, []).append(job)
            room -= 1
        for beam_size, jobs in joining.items():
            self._guarded(lambda size=beam_size, jobs=jobs: self._group(size).join(jobs), beam_size, jobs)

    def _drop_long(self) -> None:
        """Lets empty groups go that have reached far, and their memory with them."""
        if any(not group.jobs and group.reach > SHORT_REACH for group in self._groups.values()):
            self._groups = {
                size: group for size, group in self._groups.items() if group.jobs or group.reach <= SHORT_REACH
            }

    def _group(self, beam_size: int) -> _Group:
        """The batch of a beam size. Empty ones of other sizes are dropped, and their caches with them."""
        if beam_size not in self._groups:
            self._groups = {size: group for size, group in self._groups.items() if group.jobs}
            self._groups[beam_size] = _Group(self._engine.open(beam_size), BeamSearches(beam_size, self._special))
        return self._groups[beam_size]

    def _guarded(self, action: Callable[[], None], beam_size: int, joining: Sequence[Job] = ()) -> None:
        """Runs an action of a group; a fault ends its captions with INTERNAL, and the scheduler lives on."""
        try:
            action()
        except Exception:
            error = Fault()
            log.exception("a batch of the beam search failed: error %s", error.number)
            # Its engine's batch may be half changed: the next caption of this beam size gets a new one.
            group = self._groups.pop(beam_size, None)
            for job in {id(job): job for job in (*(group.jobs if group else ()), *joining)}.values():
                job.answer(error)

    def _leave_queue(self) -> None:
        with self._admission:
            self._waiting -= 1


class _Group:
    """The captions of one beam size that are searched together, in the order of the engine's batch.

    Attributes:
        jobs: the captions.
        reach: the most positions that one has had so far.
    """

    def __init__(self, batch: DecoderBatch, searches: BeamSearches) -> None:
        self.jobs: list[Job] = []
        self.reach = 0
        self._batch, self._searches = batch, searches

    def join(self, jobs: list[Job]) -> None:
        """Adds captions, which start at position 0 whatever the others are at."""
        self._batch.join([job.hidden for job in jobs])
        self._searches.join([job.settings for job in jobs])
        self.jobs += jobs

    def step(self) -> None:
        """Takes every caption one token further and lets go of those that are done or late."""
        if not self.jobs:
            return
        searches = self._searches
        self.reach = max(self.reach, searches.reach)
        candidates = self._batch.step(
            searches.tokens,
            searches.steps,
            searches.ancestors[:, :, : searches.reach],
            searches.temperature,
            searches.candidates,
        )
        ended, now = searches.advance(candidates).tolist(), time.monotonic()
        answers = [
            self._result(index, now) if done else self.jobs[index].lapse(now) for index, done in enumerate(ended)
        ]
        leaving = [index for index, answer in enumerate(answers) if answer is not None]
        if leaving:
            left = [(self.jobs[index], answers[index]) for index in leaving]
            self._remove(leaving)
            for job, answer in left:
                job.answer(answer)

    def _result(self, index: int, now: float) -> SearchResult:
        job, hypotheses = self.jobs[index], self._searches.hypotheses(index)
        return SearchResult(hypotheses, (job.started - job.arrived) * 1e3, (now - job.started) * 1e3)

    def _remove(self, leaving: list[int]) -> None:
        """Fills each gap with a caption from the end, so that few caches move."""
        gone, size = set(leaving), len(self.jobs) - len(leaving)
        tail = [index for index in range(size, len(self.jobs)) if index not in gone]
        keep = [index if index not in gone else tail.pop() for index in range(size)]
        self._batch.keep(keep)
        self._searches.keep(keep)
        self.jobs = [self.jobs[index] for index in keep]
