"""OFA's encoder: image patches and the prompt in one sequence, patches first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import RESNET_BLOCKS, OFAConfig
from .layers import EncoderLayer
from .positions import image_bucket_count, image_buckets, image_positions, text_buckets
from .resnet import OUTPUT_CHANNELS, ResNet


def relative_tables(config: OFAConfig, rows: int, layers: int) -> nn.ModuleList:
    """One bias table [rows, H] a layer, or one for all layers under ``share_attn_bias``."""
    count = 1 if config.share_attn_bias else layers
    return nn.ModuleList([nn.Embedding(rows, config.decoder_attention_heads) for _ in range(count)])


def layer_norm(config: OFAConfig, wanted: bool = True) -> nn.LayerNorm | None:
    """A norm over ``d_model``, or None where the configuration leaves it out."""
    return nn.LayerNorm(config.d_model) if wanted else None


class Encoder(nn.Module):
    """Pixels and prompt to states. Everything positional depends on the image size and prompt length alone."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        width, bucket = config.d_model, config.image_bucket_size
        self.embed_tokens = embed_tokens
        self.embed_images = ResNet(RESNET_BLOCKS[config.resnet_type], config.resnet_drop_path_rate)
        self.image_proj = nn.Linear(OUTPUT_CHANNELS, width)
        self.type_embedding = nn.Embedding(2, width) if config.add_type_embedding else None
        self.layernorm_embedding = layer_norm(config, config.layernorm_embedding)
        self.patch_layernorm_embedding = layer_norm(config, config.patch_layernorm_embedding)
        self.dropout = nn.Dropout(config.dropout)

        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(bucket**2 + 1, width)
        self.pos_ln, self.image_pos_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.pos_q_linear, self.pos_k_linear = nn.Linear(width, width), nn.Linear(width, width)
        layers = config.encoder_layers
        self.token_rel_pos_table_list = relative_tables(config, 2 * config.token_bucket_size - 1, layers)
        self.image_rel_pos_table_list = relative_tables(config, image_bucket_count(bucket), layers)

        rates = torch.linspace(0, config.encoder_drop_path_rate, layers, device="cpu").tolist()
        self.layers = nn.ModuleList([EncoderLayer(config, rate) for rate in rates])
        self.layer_norm = layer_norm(config, config.encoder_normalize_before)

    def forward(self, pixels: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes normalised pixels [B, 3, S, S] with one prompt [P] for all.

        Returns:
            States [B, N, d] and position embeddings [N, d], N = (S / 16)^2 + P.
        """
        side = self.config.patches(pixels.shape[-1])
        positions = self.position_embeddings(side, len(prompt))
        absolute = self.absolute_bias(positions[2])
        x = self.embed(self.embed_images(pixels), prompt, positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, absolute + self.relative_bias(index, side, len(prompt)))
        return (x if self.layer_norm is None else self.layer_norm(x)), positions[2]

    def embed(self, features: Tensor, prompt: Tensor, positions: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The layers' input [B, N, d] of image features [B, 1024, side, side]."""
        config = self.config
        patches = self.image_proj(features.flatten(2).transpose(1, 2)) * config.embedding_scale
        tokens = self.embed_tokens(prompt) * config.embedding_scale
        if config.entangle_position_embedding:
            patches, tokens = patches + positions[0], tokens + positions[1]
        if self.type_embedding is not None:
            patches, tokens = patches + self.type_embedding.weight[1], tokens + self.type_embedding.weight[0]
        if self.patch_layernorm_embedding is not None:
            patches = self.patch_layernorm_embedding(patches)
        if self.layernorm_embedding is not None:
            tokens = self.layernorm_embedding(tokens)
        return self.dropout(torch.cat([patches, tokens.expand(patches.shape[0], -1, -1)], 1))

    def position_embeddings(self, side: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Raw embeddings of the patches [side^2, d] and the prompt [P, d], and both normalised and joined [N, d]."""
        config = self.config
        original = config.orig_patch_image_size // 16
        if config.interpolate_position and side > original:
            table = self.embed_image_positions(image_positions(original, config.image_bucket_size).to(self._device))
            grid = table.view(1, original, original, -1).permute(0, 3, 1, 2)
            image = functional.interpolate(grid, size=(side, side), mode="bilinear").flatten(2)[0].T
        else:
            image = self.embed_image_positions(image_positions(side, config.image_bucket_size).to(self._device))
        text = self.embed_positions.weight[:length]
        return image, text, torch.cat([self.image_pos_ln(image), self.pos_ln(text)])

    def absolute_bias(self, positions: Tensor) -> Tensor:
        """The term [H, N, N] that all layers share, of position embeddings [N, d]."""
        return position_scores(self.config, self.pos_q_linear(positions), self.pos_k_linear(positions))

    def relative_bias(self, layer: int, side: int, length: int) -> Tensor:
        """The layer's own term [H, N, N]: image to image and text to text; nothing across."""
        index = 0 if self.config.share_attn_bias else layer
        patches = side * side
        image = image_buckets(side, self.config.image_bucket_size).to(self._device)
        text = text_buckets(self.config.token_bucket_size, length).to(self._device)
        image_bias = self.image_rel_pos_table_list[index](image).permute(2, 0, 1)
        text_bias = self.token_rel_pos_table_list[index](text).permute(2, 0, 1)
        return functional.pad(image_bias, (0, length, 0, length)) + functional.pad(text_bias, (patches, 0, patches, 0))

    @property
    def _device(self) -> torch.device:
        return self.embed_tokens.weight.device


def position_scores(config: OFAConfig, queries: Tensor, keys: Tensor) -> Tensor:
    """Bias [H, T, N] of projected positions [T, d] and [N, d]."""
    queries = queries.unflatten(-1, (config.decoder_attention_heads, -1)).transpose(0, 1)
    keys = keys.unflatten(-1, (config.decoder_attention_heads, -1)).transpose(0, 1)
    return queries * config.attention_scale @ keys.transpose(-1, -2)
