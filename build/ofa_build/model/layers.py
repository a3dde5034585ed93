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


class Layer(nn.Module):
    """What encoder and decoder layers share: residual branches, norms before or after them, and the feed-forward.

    The branches are separate methods over states [..., d], so that an exported graph can put its own attention
    between them.
    """

    def __init__(self, config: OFAConfig, inner: int, pre_norm: bool, drop_path: float) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.drop_path = DropPath(drop_path)
        self.activation = _ACTIVATIONS[config.activation_function]
        self.fc1 = nn.Linear(config.d_model, inner)
        self.fc2 = nn.Linear(inner, config.d_model)
        self.ffn_layer_norm = nn.LayerNorm(inner) if config.normformer else None
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.weight_ffn = _gamma(config)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The whole feed-forward branch."""
        inner = self.activation_dropout(self.activation(self.fc1(self._before(x, self.final_layer_norm))))
        inner = self.fc2(_optional(self.ffn_layer_norm, inner))
        return self._after(x, inner, self.weight_ffn, self.final_layer_norm)

    def _add_attention(self, config: OFAConfig, name: str) -> None:
        self.add_module(name, Attention(config))
        self.add_module(f"{name}_layer_norm", nn.LayerNorm(config.d_model))
        self.add_module(f"{name}_mid_layer_norm", nn.LayerNorm(config.d_model) if config.normformer else None)
        self.register_parameter(f"weight_{name}", _gamma(config))

    def _before(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x) if self.pre_norm else x

    def _after(self, x: Tensor, branch: Tensor, weight: Tensor | None, norm: nn.LayerNorm) -> Tensor:
        branch = self.dropout(branch)
        x = x + self.drop_path(branch if weight is None else weight * branch)
        return x if self.pre_norm else norm(x)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over the joined image and prompt."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.encoder_ffn_dim, config.encoder_normalize_before, drop_path)
        self._add_attention(config, "self_attn")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """States [B, N, d] under the layer's position bias [H, N, N]."""
        inner = self.before_attention(x)
        x = self.after_attention(x, self.self_attn(inner, *self.self_attn.keys_values(inner), bias))
        return self.feed_forward(x)

    def before_attention(self, x: Tensor) -> Tensor:
        """What the attention sees."""
        return self._before(x, self.self_attn_layer_norm)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the attention's result to its residual."""
        attended = _optional(self.self_attn_mid_layer_norm, attended)
        return self._after(x, attended, self.weight_self_attn, self.self_attn_layer_norm)


class DecoderLayer(EncoderLayer):
    """Self-attention, cross-attention to the encoder's states and feed-forward."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        Layer.__init__(self, config, config.decoder_ffn_dim, config.decoder_normalize_before, drop_path)
        self._add_attention(config, "self_attn")
        self._add_attention(config, "cross_attn")

    def forward(self, x: Tensor, bias: Tensor, cross: tuple[Tensor, Tensor], cross_bias: Tensor) -> Tensor:
        """States [B, T, d]; causal ``bias`` [H, T, T]; ``cross`` keys and values [B, H, N, d / H] and their bias."""
        inner = self.before_attention(x)
        x = self.after_attention(x, self.self_attn(inner, *self.self_attn.keys_values(inner), bias))
        x = self.after_cross_attention(x, self.cross_attn(self.before_cross_attention(x), *cross, cross_bias))
        return self.feed_forward(x)

    def before_cross_attention(self, x: Tensor) -> Tensor:
        """What the cross-attention sees."""
        return self._before(x, self.cross_attn_layer_norm)

    def after_cross_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the cross-attention's result to its residual."""
        attended = _optional(self.cross_attn_mid_layer_norm, attended)
        return self._after(x, attended, self.weight_cross_attn, self.cross_attn_layer_norm)


def _gamma(config: OFAConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.full((config.d_model,), config.gamma)) if config.use_gamma_feature else None


def _optional(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)
