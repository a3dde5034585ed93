"""Relative-position buckets: which row of a bias table stands for the distance between two positions.

Checkpoints store these as buffers; they follow from the configuration, so they are rebuilt and never read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEXT_POSITIONS = 1024
"""The reach of the text buckets; fixed in OFA whatever ``max_position_embeddings`` says."""


def text_buckets(bucket_size: int, length: int) -> Tensor:
    """Buckets [length, length] of text distances: exact up to half of ``bucket_size``, logarithmic beyond.

    Values lie in 0 to 2 * bucket_size - 2.
    """
    positions = torch.arange(length)
    distance = positions[:, None] - positions[None, :]
    middle = bucket_size // 2
    magnitude = distance.abs().clamp(min=middle - 1)
    reach = math.log((TEXT_POSITIONS - 1) / middle)
    logarithmic = (torch.log(magnitude / middle) / reach * (middle - 1)).ceil().int() + middle
    return torch.where(magnitude <= middle, distance, logarithmic * distance.sign()).long() + bucket_size - 1


def image_positions(side: int, bucket_size: int) -> Tensor:
    """Position ids [side * side] of a square grid of patches, row by row; id 0 is not a patch."""
    index = torch.arange(side)
    return (index[:, None] * bucket_size + index[None, :] + 1).flatten()


def image_buckets(side: int, bucket_size: int) -> Tensor:
    """Buckets [side * side, side * side] of the two-dimensional distance between patches."""
    cell = image_positions(side, bucket_size) - 1
    row, column = cell // bucket_size, cell % bucket_size
    rows = row[:, None] - row[None, :] + bucket_size - 1
    columns = column[:, None] - column[None, :] + bucket_size - 1
    return rows * (2 * bucket_size - 1) + columns


def image_bucket_count(bucket_size: int) -> int:
    """Rows of an image bias table; the last three are for OFA's other tasks."""
    return (2 * bucket_size - 1) ** 2 + 3
