"""Transformer layers of OFA: attention with head scales, NormFormer's extra norms, residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import OFAConfig
from .resnet import DropPath

_ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}


class Attention(nn.Module):
    """Multi-head attention whose scores take an additive bias (positions and masks) and whose heads are scaled."""

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.scale = config.decoder_attention_heads, config.attention_scale
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(torch.ones(self.heads))
        self.dropout = nn.Dropout(config.attention_dropout)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, d] to heads [B, H, T, d / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, d / H] of states [B, N, d]."""
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """States [B, T, d] attend to keys and values [B, H, N, d / H] under a bias that broadcasts to [B, H, T, N]."""
        queries = self.split(self.q_proj(x) * self.scale)
        weights = self.dropout((queries @ keys.transpose(-1, -2) + bias).softmax(-1))
        mixed = weights @ values * self.c_attn[:, None, None]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """The two projections of a layer; a mixin, since checkpoints keep ``fc1`` and ``fc2`` on the layer itself."""

    def _add_feed_forward(self, config: OFAConfig, inner: int) -> None:
        self.fc1 = nn.Linear(config.d_model, inner)
        self.fc2 = nn.Linear(inner, config.d_model)
        self.ffn_layer_norm = nn.LayerNorm(inner) if config.normformer else None
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = _ACTIVATIONS[config.activation_function]
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = self.activation_dropout(self.activation(self.fc1(x)))
        return self.fc2(x if self.ffn_layer_norm is None else self.ffn_layer_norm(x))


class Layer(FeedForward):
    """What encoder and decoder layers share: the residual branch around each block."""

    def __init__(self, config: OFAConfig, inner: int, drop_path: float, branches: tuple[str, ...]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)
        self._add_feed_forward(config, inner)
        for branch in branches:
            weight = nn.Parameter(torch.full((config.d_model,), config.gamma)) if config.use_gamma_feature else None
            self.register_parameter(f"weight_{branch}", weight)

    def _residual(self, x: Tensor, branch: Tensor, weight: Tensor | None) -> Tensor:
        branch = self.dropout(branch)
        return x + self.drop_path(branch if weight is None else weight * branch)


def _norm(config: OFAConfig, wanted: bool = True) -> nn.LayerNorm | None:
    return nn.LayerNorm(config.d_model) if wanted else None


def _optional(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over the joined image and prompt."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.encoder_ffn_dim, drop_path, ("self_attn", "ffn"))
        self.pre_norm = config.encoder_normalize_before
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = _norm(config)
        self.self_attn_mid_layer_norm = _norm(config, config.normformer)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """States [B, N, d] under the layer's position bias [H, N, N]."""
        inner = self.self_attn_layer_norm(x) if self.pre_norm else x
        inner = self.self_attn(inner, *self.self_attn.keys_values(inner), bias)
        x = self._residual(x, _optional(self.self_attn_mid_layer_norm, inner), self.weight_self_attn)
        x = x if self.pre_norm else self.self_attn_layer_norm(x)
        inner = self.final_layer_norm(x) if self.pre_norm else x
        x = self._residual(x, self._feed_forward(inner), self.weight_ffn)
        return x if self.pre_norm else self.final_layer_norm(x)


class DecoderLayer(Layer):
    """Self-attention, cross-attention to the encoder's states and feed-forward."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.decoder_ffn_dim, drop_path, ("self_attn", "cross_attn", "ffn"))
        self.pre_norm = config.decoder_normalize_before
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = _norm(config)
        self.self_attn_mid_layer_norm = _norm(config, config.normformer)
        self.cross_attn = Attention(config)
        self.cross_attn_layer_norm = _norm(config)
        self.cross_attn_mid_layer_norm = _norm(config, config.normformer)

    def forward(self, x: Tensor, self_bias: Tensor, cross: tuple[Tensor, Tensor], cross_bias: Tensor) -> Tensor:
        """States [B, T, d]; causal ``self_bias`` [H, T, T]; ``cross`` keys and values [B, H, N, d / H] and their bias."""
        return self.finish(self.attend_self(x, self_bias), cross, cross_bias)

    def attend_self(self, x: Tensor, bias: Tensor) -> Tensor:
        """The self-attention branch over the whole prefix."""
        inner = self.self_attn_layer_norm(x) if self.pre_norm else x
        return self.after_self(x, self.self_attn(inner, *self.self_attn.keys_values(inner), bias))

    def after_self(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the self-attention's result to its residual; the cached step enters here."""
        x = self._residual(x, _optional(self.self_attn_mid_layer_norm, attended), self.weight_self_attn)
        return x if self.pre_norm else self.self_attn_layer_norm(x)

    def finish(self, x: Tensor, cross: tuple[Tensor, Tensor], cross_bias: Tensor) -> Tensor:
        """Cross-attention and feed-forward, the same for a whole prefix and for one step of several beams."""
        inner = self.cross_attn_layer_norm(x) if self.pre_norm else x
        inner = self.cross_attn(inner, *cross, cross_bias)
        x = self._residual(x, _optional(self.cross_attn_mid_layer_norm, inner), self.weight_cross_attn)
        x = x if self.pre_norm else self.cross_attn_layer_norm(x)
        inner = self.final_layer_norm(x) if self.pre_norm else x
        x = self._residual(x, self._feed_forward(inner), self.weight_ffn)
        return x if self.pre_norm else self.final_layer_norm(x)
