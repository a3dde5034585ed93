"""Writes a checkpoint in ModelScope's format, for its own pipeline and for the readers beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..model.config import OFAConfig
from .settings import configuration_of
from .types import PipelineSettings


def save_checkpoint(
    directory: Path,
    config: OFAConfig,
    state_dict: Mapping[str, Tensor],
    settings: PipelineSettings,
    tokenizer_files: Mapping[str, bytes],
) -> None:
    """Write ``config.json``, ``configuration.json``, the vocabulary, and fp16 weights in ``pytorch_model.bin``."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", {**config.to_dict(), "torch_dtype": "float16"})
    _write_json(directory / "configuration.json", configuration_of(settings))
    for name, content in tokenizer_files.items():
        (directory / name).write_bytes(content)
    halves = {_memory(tensor): _half(tensor) for tensor in state_dict.values()}  # tied weights stay one tensor
    torch.save({name: halves[_memory(tensor)] for name, tensor in state_dict.items()}, directory / "pytorch_model.bin")


def _memory(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def _half(tensor: Tensor) -> Tensor:
    return (tensor.detach().half() if tensor.is_floating_point() else tensor.detach()).cpu().contiguous()


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
