"""Encoder and decoder in ONNX Runtime with everything bound to one device: for its CUDA execution provider.

Inputs, caches and outputs have fixed places on the device. Batches are rounded up to a few sizes, so that the decoder's
step meets the same shapes and places again and again: it is captured as a CUDA graph once for each, and from then on
one launch instead of hundreds. Where the step cannot be captured, be it in general or this time, it runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..beam_search import Candidates
from .base import EncoderEngine
from .cached import GraphBatch, GraphEngine, StepMemory
from .device import Array, Block, Device
from .onnxruntime import TYPES

log = logging.getLogger(__name__)

KEPT_BATCHES = 2
"""Beam sizes whose memory, and with it what was captured, is kept while no caption has them."""

KEPT_LAUNCHES = 256
"""Steps of different shapes or places that are kept ready."""

MOST_CAPTURED = 128
"""Steps that are captured in an engine's life, since ONNX Runtime never frees one; what comes later runs as it is."""

_GRAPH = "gpu_graph_id"
_NOT_CAPTURED = "-1"
_FIRST_REACH = 17
_CANDIDATES = 16


def session(path: Path, device: Device, capture: bool = False) -> ort.InferenceSession:
    """A session over one graph on the device.

    Args:
        path: the graph.
        device: where it runs.
        capture: whether runs may be captured as CUDA graphs.

    Raises:
        RuntimeError: ONNX Runtime cannot use the GPU.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not device.is_gpu:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    settings = {
        "device_id": str(device.number),
        "user_compute_stream": str(device.stream.ptr),
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search would stop the server at every new batch size
        "use_tf32": "0",  # float32 is to be float32
        "enable_cuda_graph": "1" if capture else "0",
    }
    made = ort.InferenceSession(path, options, providers=[("CUDAExecutionProvider", settings), "CPUExecutionProvider"])
    if "CUDAExecutionProvider" not in made.get_providers():
        raise RuntimeError(f"this ONNX Runtime cannot use the GPU; it offers {', '.join(made.get_providers())}")
    return made


def rounded(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: a batch is at most half as large again as it needs to be."""
    size = 1
    while size < count:
        half_way = size + size // 2
        if count <= half_way:
            return half_way
        size *= 2
    return size


class DeviceEncoder(EncoderEngine):
    """``model.onnx`` of one repository."""

    def __init__(self, directory: Path, device: Device) -> None:
        self._device = device
        self._session = session(directory / "model.onnx", device)
        (hidden,) = self._session.get_outputs()
        self._shape, self._dtype = tuple(hidden.shape[1:]), TYPES[hidden.type]

    def run(self, pixels: np.ndarray) -> Array:
        """See :meth:`EncoderEngine.run`; the states lie on the device."""
        self._device.enter()
        pixels = self._device.xp.ascontiguousarray(self._device.xp.asarray(pixels))
        hidden = self._device.xp.empty((len(pixels), *self._shape), self._dtype)
        binding = _bound(self._session, self._device, {"pixels": pixels}, {"hidden": hidden})
        self._session.run_with_iobinding(binding)
        self._device.wait()  # another thread's stream reads them next
        return hidden


class DeviceEngine(GraphEngine):
    """``cross.onnx`` and ``step.onnx`` of one repository."""

    growth = 64  # what is captured holds as long as the memory stays where it is
    keeps_places = True

    def __init__(self, directory: Path, device: Device) -> None:
        self.device, self.xp = device, device.xp
        self._cross = session(directory / "cross.onnx", device)
        self._step, self._captures = _step_session(directory / "step.onnx", device)
        inputs = {node.name: node for node in self._step.get_inputs()}
        super().__init__({name: node.shape for name, node in inputs.items()})
        self.dtype = TYPES[inputs[self.cache_names[0]].type]
        self._batches: dict[int, GraphBatch] = {}
        self._launches: dict[tuple[int, ...], _Launch] = {}
        self._numbers = map(str, range(MOST_CAPTURED))

    def open(self, beam_size: int) -> GraphBatch:
        """See :meth:`DecoderEngine.open`; everything of a batch happens in the thread that opens it."""
        self.device.enter()
        batch = self._batches.pop(beam_size, None)
        if batch is None or batch.size:  # one with captions was given up half-way
            batch = GraphBatch(self, beam_size)
        self._batches[beam_size] = batch
        while len(self._batches) > KEPT_BATCHES:
            del self._batches[next(iter(self._batches))]
        return batch

    def rounded(self, captions: int, reach: int) -> tuple[int, int]:
        """See :meth:`GraphEngine.rounded`."""
        steps = _FIRST_REACH - 1
        while steps + 1 < reach:
            steps *= 2
        return rounded(captions), steps + 1

    def stacked(self, states: Sequence[Array]) -> Array:
        """See :meth:`GraphEngine.stacked`."""
        return self.device.stacked(states).astype(self.dtype, copy=False)

    def run_cross(self, hidden: Array) -> dict[str, Array]:
        """See :meth:`GraphEngine.run_cross`."""
        outputs = {name: self.xp.empty((len(hidden), *shape), self.dtype) for name, shape in self.cross_shapes.items()}
        self._cross.run_with_iobinding(_bound(self._cross, self.device, {"hidden": hidden}, outputs))
        return outputs

    def run_step(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> Candidates:
        """See :meth:`GraphEngine.run_step`."""
        launch = self._launch_of(inputs, memory)
        for name, values in inputs.items():
            launch.inputs.host[name][tuple(map(slice, values.shape))] = values
        launch.inputs.upload()
        self._run(launch)
        launch.outputs.download()
        captions, count = len(inputs["tokens"]), len(inputs["ranks"])
        found = launch.outputs.host
        return Candidates(
            found["ids"][:captions, :, :count].copy(),
            found["logprobs"][:captions, :, :count].copy(),
            found["eos"][:captions].copy(),
            found["unk"][:captions].copy(),
        )

    def _run(self, launch: _Launch) -> None:
        """Runs a step; if it fails while it is captured, or replayed, once more as it is.

        ONNX Runtime captures for the whole process: what another thread does on the GPU meanwhile can make a capture
        fail. The step may be repeated, since it writes what it has written before.
        """
        try:
            self._step.run_with_iobinding(launch.binding, launch.options)
        except Exception as error:
            if not self._captures or launch.options.get_run_config_entry(_GRAPH) == _NOT_CAPTURED:
                raise
            log.warning("a step runs without a CUDA graph from now on: %s", " ".join(str(error).split()))
            launch.options.add_run_config_entry(_GRAPH, _NOT_CAPTURED)
            self._step.run_with_iobinding(launch.binding, launch.options)

    def _launch_of(self, inputs: Mapping[str, np.ndarray], memory: StepMemory) -> _Launch:
        """What runs a step of these shapes over this memory; made once for each."""
        state, new = memory.state, memory.new
        rows, (_, beams, reach) = len(next(iter(state.values()))), inputs["ancestors"].shape
        count = -(-len(inputs["ranks"]) // _CANDIDATES) * _CANDIDATES
        places = (self.device.address(array) for array in (*state.values(), *new.values()))
        key = (rows, beams, reach, count, *places)
        if key not in self._launches:
            if len(self._launches) == KEPT_LAUNCHES:  # the first one's memory is likely to be gone
                del self._launches[next(iter(self._launches))]
            self._launches[key] = self._new_launch((rows, beams, reach, count), state, new)
        return self._launches[key]

    def _new_launch(
        self, sizes: tuple[int, int, int, int], state: Mapping[str, Array], new: Mapping[str, Array]
    ) -> _Launch:
        rows, beams, reach, count = sizes
        given = {
            "tokens": ((rows, beams), np.int64),
            "steps": ((rows,), np.int64),
            "slots": ((rows, beams), np.int64),
            "ancestors": ((rows, beams, reach), np.int64),
            "temperature": ((rows,), np.float32),
            "ranks": ((count,), np.int64),
        }
        found = {
            "ids": ((rows, beams, count), np.int64),
            "logprobs": ((rows, beams, count), np.float32),
            "eos": ((rows, beams), np.float32),
            "unk": ((rows, beams), np.float32),
        }
        inputs, outputs = Block(self.device, given), Block(self.device, found)
        # Rows without a caption compute as well: what they are given, and what was left in them, must be finite.
        inputs.host["slots"][:] = np.arange(beams)
        inputs.host["ancestors"][:] = -1
        inputs.host["ancestors"][:, :, 0] = np.arange(beams)
        inputs.host["temperature"][:] = 1
        binding = _bound(
            self._step,
            self.device,
            {**inputs.device, **state},
            {**outputs.device, **{f"new_{name}": values for name, values in new.items()}},
        )
        options = ort.RunOptions()
        if self._captures:
            options.add_run_config_entry(_GRAPH, next(self._numbers, _NOT_CAPTURED))
        return _Launch(inputs, outputs, binding, options)


@dataclass(frozen=True)
class _Launch:
    """A step of fixed shapes over fixed memory, which belongs to the batch."""

    inputs: Block
    outputs: Block
    binding: ort.IOBinding
    options: ort.RunOptions


def _step_session(path: Path, device: Device) -> tuple[ort.InferenceSession, bool]:
    """The step's session, and whether its runs are captured."""
    if device.is_gpu:
        try:
            return session(path, device, capture=True), True
        except ort.capi.onnxruntime_pybind11_state.Fail as error:
            log.warning("the step runs without CUDA graphs: %s", " ".join(str(error).split()))
    return session(path, device), False


def _bound(
    made: ort.InferenceSession, device: Device, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> ort.IOBinding:
    """A binding of every input and output to memory of the device, which must outlive it."""
    binding = made.io_binding()
    kind = "cuda" if device.is_gpu else "cpu"

    def places(arrays: Mapping[str, Array]) -> Iterable[tuple]:
        for name, array in arrays.items():
            yield name, kind, device.number, array.dtype.type, array.shape, device.address(array)

    for place in places(inputs):
        binding.bind_input(*place)
    for place in places(outputs):
        binding.bind_output(*place)
    return binding
