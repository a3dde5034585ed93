"""The structural fields of an OFA checkpoint's ``config.json``, honoured or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

RESNET_BLOCKS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),  # OFA's 34 and 50 are the same: both use bottleneck blocks
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}
"""Bottleneck blocks in the three stages of each backbone; every one ends at 1024 channels, stride 16."""

ACTIVATIONS = ("gelu", "relu", "silu")


class ConfigError(ValueError):
    """A field this implementation cannot honour; the message names it."""


@dataclass(frozen=True)
class OFAConfig:
    """One OFA model's structure. Names, defaults and meaning are ``config.json``'s (ModelScope 1.40.2)."""

    vocab_size: int = 59457
    max_position_embeddings: int = 1024
    d_model: int = 512
    encoder_layers: int = 4
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 4
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    activation_function: str = "gelu"
    attn_scale_factor: float = 2.0
    resnet_type: str = "resnet101"
    token_bucket_size: int = 256
    image_bucket_size: int = 42

    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    normformer: bool = True
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    scale_embedding: bool = False
    share_decoder_input_output_embed: bool = True
    share_attn_bias: bool = False
    entangle_position_embedding: bool = False
    disable_entangle: bool = False
    interpolate_position: bool = False
    orig_patch_image_size: int = 224
    use_gamma_feature: bool = False
    gamma: float = 1.0

    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2

    # Training only.
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_drop_path_rate: float = 0.0
    decoder_drop_path_rate: float = 0.0
    resnet_drop_path_rate: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.resnet_type not in RESNET_BLOCKS:
            raise ConfigError(f"resnet_type is {self.resnet_type!r}; supported: {', '.join(RESNET_BLOCKS)}")
        if self.activation_function not in ACTIVATIONS:
            raise ConfigError(
                f"activation_function is {self.activation_function!r}; supported: {', '.join(ACTIVATIONS)}"
            )
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if heads < 1 or self.d_model % heads:
                raise ConfigError(f"d_model {self.d_model} is not divisible by {side}_attention_heads {heads}")
        if self.encoder_attention_heads != self.decoder_attention_heads:
            raise ConfigError("encoder_attention_heads and decoder_attention_heads differ; they must be equal")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OFAConfig:
        """Reads ``config.json``'s content; fields without influence on captions pass unread.

        Raises:
            ConfigError: naming the field that asks for what is not implemented.
        """
        for name, supported in (("use_ofasys", False), ("use_image_feature", True)):
            if values.get(name, supported) != supported:
                raise ConfigError(f"{name} is {values[name]!r}; only {supported} is supported")
        if values.get("resnet_model_path"):
            raise ConfigError("resnet_model_path names another weights file; put the weights into the checkpoint")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for ``config.json`` (with the constants ModelScope's loader expects)."""
        return {
            "architectures": ["OFAModel"],
            "model_type": "ofa",
            "is_encoder_decoder": True,
            "decoder_start_token_id": self.bos_token_id,
            "forced_eos_token_id": self.eos_token_id,
            "use_ofasys": False,
            "use_image_feature": True,
            "resnet_model_path": None,
            **asdict(self),
        }

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.decoder_attention_heads

    @property
    def attention_scale(self) -> float:
        """What queries are multiplied by: (head_dim * attn_scale_factor) ** -0.5."""
        return (self.head_dim * self.attn_scale_factor) ** -0.5

    @property
    def embedding_scale(self) -> float:
        """What token and patch embeddings are multiplied by."""
        return self.d_model**0.5 if self.scale_embedding else 1.0

    def patches(self, image_size: int) -> int:
        """Patches along one side of a square image of ``image_size`` pixels: three stride-2 stages and a stride-2 pool.

        Raises:
            ConfigError: if the image has more patches than the position table holds.
        """
        side = image_size
        for _ in range(4):
            side = (side + 1) // 2
        if side > self.image_bucket_size:
            raise ConfigError(
                f"image_bucket_size is {self.image_bucket_size}: a {image_size}-pixel image has {side} patches a side"
            )
        return side
