"""Attention as the graphs run it: constant factors folded into the weights, rows flat so that each bias is a Gemm's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.layers import Attention


def folded_query(attention: Attention) -> tuple[Tensor, Tensor]:
    """The query projection's weight and bias with the attention scale folded in."""
    return attention.q_proj.weight * attention.scale, attention.q_proj.bias * attention.scale


def folded_output(attention: Attention) -> nn.Linear:
    """The output projection with the head scales folded into its columns."""
    columns = attention.c_attn.repeat_interleave(attention.out_proj.in_features // attention.heads)
    return linear(attention.out_proj.weight * columns, attention.out_proj.bias)


def fused_projection(attention: Attention) -> nn.Linear:
    """Queries, keys and values of one input in a single projection [d, 3d]."""
    query, bias = folded_query(attention)
    return linear(
        torch.cat([query, attention.k_proj.weight, attention.v_proj.weight]),
        torch.cat([bias, attention.k_proj.bias, attention.v_proj.bias]),
    )


def split_heads(qkv: Tensor, batch: int, length: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, T, d / H] of fused projections [B * T, 3d]."""
    return qkv.view(batch, length, 3 * heads, -1).transpose(1, 2).split(heads, dim=1)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A projection with these parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer
