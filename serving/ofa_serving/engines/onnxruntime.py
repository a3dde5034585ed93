"""The decoder in ONNX Runtime on CPU: caches in NumPy memory that the step's graph updates in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..beam_search import Candidates
from .base import DecoderBatch, DecoderEngine

GROWTH = 4
"""Captions that a batch's memory grows by at least."""


def session(path: Path, threads: int) -> ort.InferenceSession:
    """A CPU session over one graph with ``threads`` threads that sleep when idle.

    Spinning threads would take the cores from the other stages of the pipeline.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEngine(DecoderEngine):
    """``cross.onnx`` and ``step.onnx`` of one repository."""

    def __init__(self, directory: Path, threads: int) -> None:
        self.cross = session(directory / "cross.onnx", threads)
        self.step = session(directory / "step.onnx", threads)
        inputs = {node.name: node.shape for node in self.step.get_inputs()}
        self.caches = [name for name in inputs if name.startswith("self_")]
        self.heads, self.width = inputs[self.caches[0]][1], inputs[self.caches[0]][3]
        self.cross_shapes = {name: inputs[name][1:] for name in inputs if name.startswith("cross_")}

    def open(self, beam_size: int) -> DecoderBatch:
        """See :meth:`DecoderEngine.open`."""
        return OnnxRuntimeBatch(self, beam_size)


class OnnxRuntimeBatch(DecoderBatch):
    """Captions of one beam size. The first C rows of every buffer are in use, so a step copies nothing."""

    def __init__(self, engine: OnnxRuntimeEngine, beam_size: int) -> None:
        self._engine, self._beams = engine, beam_size
        self._size = self._reach = 0
        self._cross = {name: np.empty((0, *shape), np.float32) for name, shape in engine.cross_shapes.items()}
        self._caches = {name: self._cache(0) for name in engine.caches}

    def join(self, hidden: np.ndarray) -> None:
        """See :meth:`DecoderBatch.join`."""
        end = self._size + len(hidden)
        self._reserve(end, self._reach)
        for name, values in zip(self._cross, self._engine.cross.run(None, {"hidden": hidden}), strict=True):
            self._cross[name][self._size : end] = values
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
        self._reserve(self._size, ancestors.shape[2])
        if ancestors.shape[2] < self._reach:  # the buffers reach further than this batch's positions
            missing = self._reach - ancestors.shape[2]
            ancestors = np.pad(ancestors, ((0, 0), (0, 0), (0, missing)), constant_values=-1)
        binding = self._engine.step.io_binding()
        arguments = {"tokens": tokens, "steps": steps, "ancestors": ancestors, "temperature": temperature}
        arguments["count"] = np.array([count])
        for name, values in arguments.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(values))
        for name, buffer in self._cross.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(buffer[: self._size]))
        for name, buffer in self._caches.items():
            value = ort.OrtValue.ortvalue_from_numpy(buffer[: self._size])
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"new_{name}", value)  # the same memory: updated in place
        for name in ("ids", "logprobs", "eos", "unk"):
            binding.bind_output(name)
        self._engine.step.run_with_iobinding(binding)
        ids, logprobs, eos, unk = (value.numpy() for value in binding.get_outputs()[-4:])
        return Candidates(ids, logprobs, eos, unk)

    def _cache(self, captions: int) -> np.ndarray:
        # Zeroed: a masked slot is multiplied by zero, and uninitialised memory may hold NaN.
        shape = (captions, self._engine.heads, self._reach * self._beams, self._engine.width)
        return np.zeros(shape, np.float32)

    def _reserve(self, captions: int, reach: int) -> None:
        """Grows the buffers to this many captions and positions."""
        capacity = len(next(iter(self._cross.values())))
        if captions > capacity:
            capacity = max(captions, capacity + GROWTH, capacity * 3 // 2)
            for name, buffer in self._cross.items():
                self._cross[name] = np.empty((capacity, *buffer.shape[1:]), np.float32)
                self._cross[name][: self._size] = buffer[: self._size]
        cached = next(iter(self._caches.values()))
        if capacity > len(cached) or reach > self._reach:
            self._reach = max(reach, self._reach)
            for name, buffer in self._caches.items():
                self._caches[name] = grown = self._cache(capacity)
                grown[: self._size, :, : buffer.shape[2]] = buffer[: self._size]
