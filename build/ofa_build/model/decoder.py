"""OFA's decoder over text. Its position biases, too, are independent of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import OFAConfig
from .encoder import layer_norm, position_scores, relative_tables
from .layers import DecoderLayer
from .positions import image_bucket_count, text_buckets


class Decoder(nn.Module):
    """Tokens and encoder states to vocabulary logits."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        width, bucket, layers = config.d_model, config.image_bucket_size, config.decoder_layers
        self.embed_tokens = embed_tokens
        self.layernorm_embedding = layer_norm(config, config.layernorm_embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear, self.self_pos_k_linear = nn.Linear(width, width), nn.Linear(width, width)
        self.cross_pos_q_linear, self.cross_pos_k_linear = nn.Linear(width, width), nn.Linear(width, width)
        self.token_rel_pos_table_list = relative_tables(config, 2 * config.token_bucket_size - 1, layers)
        rates = torch.linspace(0, config.decoder_drop_path_rate, layers, device="cpu").tolist()
        self.layers = nn.ModuleList([DecoderLayer(config, rate) for rate in rates])
        self.layer_norm = layer_norm(config, config.decoder_normalize_before)
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        if config.share_decoder_input_output_embed:
            self.output_projection.weight = embed_tokens.weight

        # For OFA's image-generation tasks; captioning never runs them. Kept so that a checkpoint round-trips whole.
        self.embed_image_positions = nn.Embedding(bucket**2 + 1, width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.image_rel_pos_table_list = relative_tables(config, image_bucket_count(bucket), layers)
        self.code_layernorm_embedding = layer_norm(config, config.code_layernorm_embedding)

    def forward(self, tokens: Tensor, states: Tensor, source_positions: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] after each of the tokens [B, T], for states [B, N, d] and their positions [N, d].

        ``wanted``, bool [B, T], picks tokens: [their number, V].
        """
        return self.decode(tokens, self.cross_keys_values(states), source_positions, wanted)

    def cross_keys_values(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and values [B, H, N, d / H] of the encoder's states [B, N, d]."""
        return [layer.cross_attn.keys_values(states) for layer in self.layers]

    def decode(
        self,
        tokens: Tensor,
        cross: list[tuple[Tensor, Tensor]],
        source_positions: Tensor,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, T, V] after each of the tokens [B, T], or of those ``wanted``, for the layers' keys and values."""
        length = tokens.shape[1]
        causal = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
        positions = torch.arange(length, device=tokens.device)
        absolute, cross_bias = self.self_bias(length) + causal, self.cross_bias(length, source_positions)
        x = self.dropout(self.embed(self.embed_tokens(tokens), positions))
        for index, (layer, keys_values) in enumerate(zip(self.layers, cross, strict=True)):
            x = layer(x, absolute + self.relative_bias(index, length), keys_values, cross_bias)
        return self.logits(x if wanted is None else x[wanted])

    def embed(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """The layers' input [..., d] of token embeddings [..., d] at positions that broadcast to them."""
        x = embedded * self.config.embedding_scale
        if self.config.entangle_position_embedding and not self.config.disable_entangle:
            x = x + self.embed_positions(positions)
        return x if self.layernorm_embedding is None else self.layernorm_embedding(x)

    def logits(self, x: Tensor) -> Tensor:
        """The last layer's states [..., d] to vocabulary logits [..., V]."""
        return self.output_projection(x if self.layer_norm is None else self.layer_norm(x))

    def self_bias(self, length: int) -> Tensor:
        """The absolute-position term [H, T, T] that all layers share."""
        positions = self.pos_ln(self.embed_positions.weight[:length])
        return position_scores(self.config, self.self_pos_q_linear(positions), self.self_pos_k_linear(positions))

    def relative_bias(self, layer: int, length: int) -> Tensor:
        """The layer's own term [H, T, T] of text distances."""
        buckets = text_buckets(self.config.token_bucket_size, length).to(self.embed_tokens.weight.device)
        return self.token_rel_pos_table_list[0 if self.config.share_attn_bias else layer](buckets).permute(2, 0, 1)

    def cross_bias(self, length: int, source_positions: Tensor) -> Tensor:
        """Bias [H, T, N] between the first T target positions and the source's positions [N, d]."""
        positions = self.pos_ln(self.embed_positions.weight[:length])
        return position_scores(
            self.config, self.cross_pos_q_linear(positions), self.cross_pos_k_linear(source_positions)
        )
