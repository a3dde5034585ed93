"""Writes the three graphs of a checkpoint and checks them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from ofa_serving.beam_search import SpecialTokens
from torch import Tensor, nn

from ..model import OFA, OFAConfig
from .decoder import CrossGraph, StepGraph, cache_names, cross_names
from .encoder import EncoderGraph

OPSET = 20
"""Has Gelu and LayerNormalization as operators; ONNX Runtime 1.31 and TensorRT 10 both read it."""

ENCODER, CROSS, STEP = "model.onnx", "cross.onnx", "step.onnx"
"""The file names, where Triton and the decoder engines look for them."""

SINGLE_FILE_BYTES = 1 << 30
"""A graph whose weights are larger keeps them in a file beside it: ONNX files end at 2 GB."""

_DYNAMIC = torch.export.Dim.DYNAMIC


def weights_of(path: Path) -> Path:
    """The file beside a large graph that has its weights."""
    return path.with_name(f"{path.name}.data")


def export_graphs(
    encoder_folder: Path,
    decoder_folder: Path,
    model: OFA,
    *,
    special: SpecialTokens,
    prompt: Sequence[int],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    positions: int,
    precision: str = "fp32",
) -> int:
    """Writes the encoder to one folder and the decoder's two graphs to another, each passed by ``onnx.checker``.

    Args:
        encoder_folder: where the encoder goes.
        decoder_folder: where cross-attention and step go.
        model: in evaluation mode, float32.
        special: the vocabulary's special tokens.
        prompt: the prompt's ids, with bos and eos.
        image_size: pixels along a side.
        mean: of each channel, for pixels in 0 to 1.
        std: likewise.
        positions: decoder positions the step must reach: the longest caption and its end.
        precision: ``fp32``, or ``fp16``: weights, states and caches; pixels are normalised, and log-probabilities
            taken, in float32 all the same. The model's own weights are halved.

    Returns:
        The source length N, patches and prompt.
    """
    config = model.config
    with torch.no_grad():
        encoder = EncoderGraph(model, torch.tensor(prompt), image_size, mean, std)
        source = encoder.positions[2]
        cross, step = CrossGraph(model), StepGraph(model, special, source, positions)
        # Halved when all are made: their biases are computed in float32.
        graphs = [(graph.half() if precision == "fp16" else graph).eval() for graph in (encoder, cross, step)]
        encoder, cross, step = graphs
        dtype = next(step.parameters()).dtype
        pixels = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
        _export(encoder_folder / ENCODER, encoder, (pixels,), ({0: _DYNAMIC},), ["pixels"], ["hidden"])
        hidden = torch.zeros(2, len(source), config.d_model, dtype=dtype)
        names = cross_names(config.decoder_layers)
        _export(decoder_folder / CROSS, cross, (hidden,), ({0: _DYNAMIC},), ["hidden"], names)
        _export_step(decoder_folder / STEP, step, config, len(source), dtype)
    return len(source)


def _export_step(path: Path, graph: StepGraph, config: OFAConfig, source: int, dtype: torch.dtype) -> None:
    captions, beams, reach, heads, width = 3, 5, 7, config.decoder_attention_heads, config.head_dim
    caches, cross = cache_names(config.decoder_layers), cross_names(config.decoder_layers)
    cross_shapes = [(captions, heads, width, source), (captions, heads, source, width)] * config.decoder_layers
    example = (
        torch.zeros(captions, beams, dtype=torch.int64),
        torch.zeros(captions, dtype=torch.int64),
        torch.zeros(captions, beams, dtype=torch.int64),
        torch.zeros(captions, beams, reach, dtype=torch.int64),
        torch.ones(captions),
        torch.arange(13),
        # Each a tensor of its own: the exporter takes one tensor given twice for one input.
        *(torch.zeros(captions, heads, reach * beams, width, dtype=dtype) for _ in caches),
        *(torch.zeros(shape, dtype=dtype) for shape in cross_shapes),
    )
    batch = {0: _DYNAMIC}
    shapes = (
        {0: _DYNAMIC, 1: _DYNAMIC},
        batch,
        {0: _DYNAMIC, 1: _DYNAMIC},
        {0: _DYNAMIC, 1: _DYNAMIC, 2: _DYNAMIC},
        batch,
        batch,
        ({0: _DYNAMIC, 2: _DYNAMIC},) * len(caches) + (batch,) * len(cross),
    )
    inputs = ["tokens", "steps", "slots", "ancestors", "temperature", "ranks", *caches, *cross]
    outputs = ["ids", "logprobs", "eos", "unk", *(f"new_{name}" for name in caches)]
    _export(path, graph, example, shapes, inputs, outputs)


def _export(
    path: Path, graph: nn.Module, example: tuple[Tensor, ...], shapes: tuple, inputs: list[str], outputs: list[str]
) -> None:
    weights = sum(tensor.nbytes for tensor in (*graph.parameters(), *graph.buffers()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            graph,
            example,
            path,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            external_data=weights > SINGLE_FILE_BYTES,
            verbose=False,
        )
    onnx.checker.check_model(path, full_check=True)
