"""A batch over two graphs, whatever runs them: the memory of its captions, on the host or on a GPU.

See ``ofa_build.export.decoder`` for the layout. The first C rows of every buffer are in use, so a step copies nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from ..beam_search import Candidates
from ..contract import MAX_LENGTH
from .base import SHORT_REACH, DecoderBatch, DecoderEngine
from .device import Array

_LONG_GROWTH = 8


@dataclass(frozen=True)
class StepMemory:
    """Where a step of so many captions reads and writes; the same object as long as that stays where it is.

    Attributes:
        state: caches and cross-attention tensors; they may have further rows, whose results nobody wants.
        new: where the updated caches go; the memory of ``state`` if the engine writes in place.
        prepared: what the engine keeps for further steps over this memory.
    """

    state: Mapping[str, Array]
    new: Mapping[str, Array]
    prepared: dict[Any, Any] = field(default_factory=dict)


class GraphEngine(DecoderEngine, ABC):
    """``cross`` and ``step`` in some runtime.

    Attributes:
        xp: NumPy, or CuPy for a runtime on a GPU.
        dtype: of the caches and cross-attention tensors; only the engine looks into them.
        in_place: whether a step may write the caches it reads.
        growth: captions that a batch's memory grows by at least.
        keeps_places: whether caches that return to a length return to their memory of that length; for an engine that
            has steps prepared over it, and writes in place.
    """

    xp: ModuleType = np
    dtype: Any = np.float32
    in_place = True
    growth = 4
    keeps_places = False

    def __init__(self, step_inputs: Mapping[str, Sequence[Any]]) -> None:
        """``step_inputs`` are the shapes of the step's inputs; dynamic dimensions may be anything."""
        self.cache_names = [name for name in step_inputs if name.startswith("self_")]
        self.cross_shapes = {name: tuple(step_inputs[name][1:]) for name in step_inputs if name.startswith("cross_")}
        _, self.heads, _, self.width = step_inputs[self.cache_names[0]]

    def open(self, beam_size: int) -> DecoderBatch:
        """See :meth:`DecoderEngine.open`."""
        return GraphBatch(self, beam_size)

    def rounded(self, captions: int, reach: int) -> tuple[int, int]:
        """The captions and positions to run a step with: memory that grew with every step would be copied each time."""
        return captions, reach if reach <= SHORT_REACH else min(reach + -reach % _LONG_GROWTH, MAX_LENGTH + 1)

    def stacked(self, states: Sequence[Array]) -> Array:
        """What :meth:`run_cross` takes: the states [N, d] of several captions as one array."""
        return np.stack(states)

    @abstractmethod
    def run_cross(self, hidden: Array) -> dict[str, Array]:
        """The cross-attention tensors of states [n, N, d], by name."""

    @abstractmethod
    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """One step over the batch's memory, given what the host knows of each caption."""


class GraphBatch(DecoderBatch):
    """Captions of one beam size."""

    def __init__(self, engine: GraphEngine, beam_size: int) -> None:
        self._engine, self._beams = engine, beam_size
        self._size = self._capacity = self._reach = 0
        xp = engine.xp
        self._cross = {name: xp.zeros((0, *shape), engine.dtype) for name, shape in engine.cross_shapes.items()}
        self._caches = {name: self._cache() for name in engine.cache_names}
        self._others = self._caches  # where a step writes if not in place
        self._places: dict[tuple[str, int], Array] = {}  # by cache and reach, of the present capacity
        self._memory: dict[tuple[int, bool], StepMemory] = {}  # by captions, and which of two a step writes
        self._turned = False
        self._rows = np.arange(beam_size)

    @property
    def size(self) -> int:
        """Its captions."""
        return self._size

    def join(self, states: Sequence[Array]) -> None:
        """See :meth:`DecoderBatch.join`."""
        end = self._size + len(states)
        self._reserve(end, self._reach)
        for name, values in self._engine.run_cross(self._engine.stacked(states)).items():
            self._cross[name][self._size : end] = values
        for buffer in self._caches.values():
            buffer[self._size : end] = 0  # what the row's last caption left; in half precision that may be NaN
        self._size = end

    def keep(self, captions: Sequence[int]) -> None:
        """See :meth:`DecoderBatch.keep`."""
        for buffer in (*self._cross.values(), *self._caches.values()):
            rows = {new: buffer[old].copy() for new, old in enumerate(captions) if new != old}
            for new, row in rows.items():
                buffer[new] = row
        self._size = len(captions)

    def step(
        self, tokens: np.ndarray, steps: np.ndarray, ancestors: np.ndarray, temperature: np.ndarray, count: int
    ) -> Candidates:
        """See :meth:`DecoderBatch.step`."""
        rows, reach = self._engine.rounded(self._size, ancestors.shape[2])
        self._reserve(rows, reach)
        if self._reach > SHORT_REACH and self._reach >= 2 * reach:  # a step runs over all of it, used or not
            self._move(self._capacity, self._engine.rounded(rows, max(reach, SHORT_REACH))[1])
        if self._reach > ancestors.shape[2]:  # the buffers reach further than these captions do
            short, ancestors = ancestors, np.full((*ancestors.shape[:2], self._reach), -1)
            ancestors[:, :, : short.shape[2]] = short
        inputs = {
            "tokens": tokens,
            "steps": steps,
            "slots": steps[:, None] * self._beams + self._rows,
            "ancestors": ancestors,
            "temperature": temperature,
            "ranks": np.arange(count),
        }
        candidates = self._engine.run_step(inputs, self._memory_of(rows))
        if not self._engine.in_place:
            self._caches, self._others = self._others, self._caches
            self._turned = not self._turned
        return candidates

    def _memory_of(self, rows: int) -> StepMemory:
        """The first rows of every buffer."""
        key = rows, self._turned
        if key not in self._memory:
            state = {name: buffer[:rows] for name, buffer in (*self._caches.items(), *self._cross.items())}
            self._memory[key] = StepMemory(state, {name: buffer[:rows] for name, buffer in self._others.items()})
        return self._memory[key]

    def _reserve(self, captions: int, reach: int) -> None:
        """Grows the buffers to this many captions and positions. An empty batch that lacked memory may try again."""
        if captions <= self._capacity and reach <= self._reach:
            return
        capacity = self._capacity
        if captions > capacity:
            capacity = max(captions, capacity + self._engine.growth, capacity * 3 // 2)
            self._memory = {}  # here too: what lacks memory half-way must leave no step over the old places
            for name, buffer in self._cross.items():
                self._cross[name] = grown = self._engine.xp.zeros((capacity, *buffer.shape[1:]), buffer.dtype)
                grown[: self._size] = buffer[: self._size]
        self._move(capacity, max(reach, self._reach))

    def _move(self, capacity: int, reach: int) -> None:
        """Moves the caches to memory for this many captions and positions."""
        self._memory = {}
        if capacity != self._capacity:
            self._places = {}
        end = min(reach, self._reach) * self._beams
        for name, buffer in self._caches.items():
            self._caches[name] = moved = self._place(name, capacity, reach)
            if self._size:
                moved[: self._size, :, :end] = buffer[: self._size, :, :end]
        if not self._engine.in_place:
            self._others = {name: self._cache(capacity, reach) for name in self._caches}
        self._capacity, self._reach = capacity, reach

    def _place(self, name: str, capacity: int, reach: int) -> Array:
        """Memory for one cache: where it was when it last had this size, if the engine wants that."""
        if not self._engine.keeps_places:
            return self._cache(capacity, reach)
        if (name, reach) in self._places:
            self._places[name, reach][:] = 0
        else:
            self._places[name, reach] = self._cache(capacity, reach)
        return self._places[name, reach]

    def _cache(self, captions: int = 0, reach: int = 0) -> Array:
        # Zeroed, as all memory here: a masked slot is multiplied by zero, and uninitialised memory may hold NaN.
        xp, engine = self._engine.xp, self._engine
        return xp.zeros((captions, engine.heads, reach * self._beams, engine.width), engine.dtype)
