"""TensorRT plans from the exported graphs. A plan runs only on the GPU model and TensorRT version it was built with.

TensorRT comes with NVIDIA's container, where this runs (``make plans``); its parser and builder are also exercised
without a GPU in the tests, through TensorRT for RTX, which has the same interface.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from ofa_serving.contract import MAX_LENGTH, PARAMETERS

log = logging.getLogger(__name__)

TYPICAL_BEAMS, MOST_BEAMS = 5, int(PARAMETERS["beam_size"].high)
TYPICAL_REACH, MOST_REACH = 17, MAX_LENGTH + 1
TYPICAL_COUNT, MOST_COUNT = 16, 2 * MOST_BEAMS + MOST_REACH + 3  # BeamSearches.candidates where all is forbidden


class PlanError(Exception):
    """A graph that TensorRT does not build; one line."""


def build_plan(graph: Path, plan: Path, max_captions: int, tensorrt: ModuleType | None = None) -> None:
    """Builds one graph for the GPU of this machine.

    Precision follows the graph's own types (strongly typed), so a plan computes what ONNX Runtime does.

    Args:
        graph: an exported graph.
        plan: where to write.
        max_captions: the largest batch.
        tensorrt: the module, if not ``tensorrt``.

    Raises:
        PlanError: TensorRT is not installed, or refuses the graph.
    """
    trt = tensorrt or load_tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise PlanError(f"TensorRT cannot read {graph.name}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is to be float32
    config.add_optimization_profile(profile_of(builder, network, max_captions))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise PlanError(f"TensorRT could not build {graph.name}; its log says why")
    plan.write_bytes(engine)
    log.info("built %s", plan.name)


def profile_of(builder: Any, network: Any, max_captions: int) -> Any:
    """The range of every dynamic dimension: one caption of one beam to ``max_captions`` of 16, 5 beams typically."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        least, typical, most = (_shape(tensor.name, tuple(tensor.shape), *sizes) for sizes in _sizes(max_captions))
        profile.set_shape(tensor.name, least, typical, most)
    return profile


def _sizes(max_captions: int) -> tuple[tuple[int, int, int, int], ...]:
    """Captions, beams, reach and candidates: least, typical, most."""
    return (
        (1, 1, 1, 1),
        (max(max_captions // 2, 1), TYPICAL_BEAMS, TYPICAL_REACH, TYPICAL_COUNT),
        (max_captions, MOST_BEAMS, MOST_REACH, MOST_COUNT),
    )


def _shape(name: str, shape: tuple[int, ...], captions: int, beams: int, reach: int, count: int) -> tuple[int, ...]:
    """An input's shape with its dynamic dimensions, -1 in the graph, filled in."""
    pair = (captions, beams)
    dynamic = {"tokens": pair, "slots": pair, "ancestors": (captions, beams, reach), "ranks": (count,)}
    if name in dynamic:
        return dynamic[name]
    if name.startswith("self_"):
        return (captions, shape[1], reach * beams, shape[3])
    return (captions, *shape[1:])


def load_tensorrt() -> ModuleType:
    """The ``tensorrt`` module.

    Raises:
        PlanError: it is not installed.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        message = "TensorRT is not installed here: plans are built in NVIDIA's container (make plans)"
        raise PlanError(message) from None
