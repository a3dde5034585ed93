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

    Returns:
        The source length N, patches and prompt.
    """
    config = model.config
    with torch.no_grad():
        encoder = EncoderGraph(model, torch.tensor(prompt), image_size, mean, std).eval()
        pixels = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
        _export(encoder_folder / ENCODER, encoder, (pixels,), ({0: _DYNAMIC},), ["pixels"], ["hidden"])

        source = encoder.positions[2]
        hidden = torch.zeros(2, len(source), config.d_model)
        cross = cross_names(config.decoder_layers)
        _export(decoder_folder / CROSS, CrossGraph(model).eval(), (hidden,), ({0: _DYNAMIC},), ["hidden"], cross)
        _export_step(decoder_folder / STEP, StepGraph(model, special, source, positions).eval(), config, len(source))
    return len(source)


def _export_step(path: Path, graph: StepGraph, config: OFAConfig, source: int) -> None:
    captions, beams, reach, heads, width = 3, 5, 7, config.decoder_attention_heads, config.head_dim
    caches, cross = cache_names(config.decoder_layers), cross_names(config.decoder_layers)
    cross_shapes = [(captions, heads, width, source), (captions, heads, source, width)] * config.decoder_layers
    tokens = torch.zeros(captions, beams, dtype=torch.int64)
    example = (
        tokens,
        torch.zeros(captions, dtype=torch.int64),
        torch.zeros(captions, beams, reach, dtype=torch.int64),
        torch.ones(captions),
        torch.tensor([13]),
        # Each a tensor of its own: the exporter takes one tensor given twice for one input.
        *(torch.zeros(captions, heads, reach * beams, width) for _ in caches),
        *(torch.zeros(shape) for shape in cross_shapes),
    )
    batch = {0: _DYNAMIC}
    shapes = (
        {0: _DYNAMIC, 1: _DYNAMIC},
        batch,
        {0: _DYNAMIC, 1: _DYNAMIC, 2: _DYNAMIC},
        batch,
        None,
        ({0: _DYNAMIC, 2: _DYNAMIC},) * len(caches) + (batch,) * len(cross),
    )
    inputs = ["tokens", "steps", "ancestors", "temperature", "count", *caches, *cross]
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
