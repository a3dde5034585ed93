"""The decoder as two graphs: cross-attention keys and values once an image, then one step for all beams of a batch.

Cache layout. Self-attention keys and values of every beam and position lie side by side, [C, H, P * K, d / H] with
position-major order, and are never re-ordered: ``ancestors`` says for each beam which slot holds its own past, and
every other slot is masked. So a step only writes one slot a beam, in place when input and output share memory.
Cross-attention keys and values exist once a caption; its beams are rows of one query matrix.
"""

from __future__ import annotations

import torch
from ofa_serving.beam_search import SpecialTokens
from torch import Tensor, nn

from ..model import OFA
from ..model.layers import DecoderLayer
from .attention import folded_output, folded_query, fused_projection, linear, split_heads
from .vocabulary import VocabularyHead


def cross_names(layers: int) -> list[str]:
    """Names of the cross-attention tensors, layer by layer: keys [C, H, d / H, N], values [C, H, N, d / H]."""
    return [f"cross_{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


def cache_names(layers: int) -> list[str]:
    """Names of the self-attention caches, layer by layer: keys and values, each [C, H, P * K, d / H]."""
    return [f"self_{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


class CrossGraph(nn.Module):
    """``hidden`` [C, N, d] to every layer's cross-attention keys, transposed, and values."""

    def __init__(self, model: OFA) -> None:
        super().__init__()
        attentions = [layer.cross_attn for layer in model.decoder.layers]
        self.heads = model.config.decoder_attention_heads
        self.keys = nn.ModuleList([attention.k_proj for attention in attentions])
        self.values = nn.ModuleList([attention.v_proj for attention in attentions])

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """In the order of :func:`cross_names`."""
        batch, length, width = hidden.shape
        rows, outputs = hidden.flatten(0, 1), []
        for keys, values in zip(self.keys, self.values, strict=True):
            split = (batch, length, self.heads, width // self.heads)
            outputs.append(keys(rows).view(split).permute(0, 2, 3, 1))
            outputs.append(values(rows).view(split).transpose(1, 2))
        return tuple(outputs)


class StepLayer(nn.Module):
    """One decoder layer over one position of every beam."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.layer = layer
        self.heads = layer.self_attn.heads
        self.self_projection = fused_projection(layer.self_attn)
        self.self_output = folded_output(layer.self_attn)
        self.cross_query = linear(*folded_query(layer.cross_attn))
        self.cross_output = folded_output(layer.cross_attn)

    def forward(
        self, x: Tensor, slots: Tensor, caches: list[Tensor], bias: Tensor, cross: list[Tensor], cross_bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States [C * K, d]; ``slots`` [C, 1, K, 1]; self-attention bias [C, H, K, P * K]; cross bias [C, H, 1, N].

        Returns:
            The states and the updated key and value caches.
        """
        layer, batch, beams = self.layer, slots.shape[0], slots.shape[2]
        width = x.shape[-1]
        qkv = self.self_projection(layer.before_attention(x))
        queries, keys, values = split_heads(qkv, batch, beams, self.heads)
        index = slots.expand(-1, self.heads, -1, width // self.heads)
        all_keys, all_values = caches[0].scatter(2, index, keys), caches[1].scatter(2, index, values)
        mixed = (queries @ all_keys.transpose(-1, -2) + bias).softmax(-1) @ all_values
        x = layer.after_attention(x, self.self_output(mixed.transpose(1, 2).reshape(x.shape)))

        queries = self.cross_query(layer.before_cross_attention(x)).view(batch, beams, self.heads, -1).transpose(1, 2)
        mixed = (queries @ cross[0] + cross_bias).softmax(-1) @ cross[1]
        x = layer.after_cross_attention(x, self.cross_output(mixed.transpose(1, 2).reshape(x.shape)))
        return layer.feed_forward(x), all_keys, all_values


class StepGraph(nn.Module):
    """One decoding step: a token for each of K beams of C captions in, their best candidates and the caches out."""

    def __init__(self, model: OFA, special: SpecialTokens, source_positions: Tensor, positions: int) -> None:
        """Folds every bias.

        Args:
            model: evaluated in float32.
            special: the vocabulary's special tokens.
            source_positions: the encoder's position embeddings [N, d].
            positions: decoder positions the graph can reach.
        """
        super().__init__()
        decoder = model.decoder
        self.decoder, self.heads = decoder, model.config.decoder_attention_heads
        self.layers = nn.ModuleList([StepLayer(layer) for layer in decoder.layers])
        self.head = VocabularyHead(decoder.output_projection.weight, special)
        self.embed_tokens = decoder.embed_tokens
        if model.config.share_decoder_input_output_embed:  # one table in the file for both
            self.embed_tokens = nn.Embedding.from_pretrained(self.head.projection.weight)
        absolute = decoder.self_bias(positions)
        biases = [absolute + decoder.relative_bias(layer, positions) for layer in range(len(self.layers))]
        # [position of the query, layer * head, position of the key], so that one gather serves every layer
        self.register_buffer("self_bias", torch.cat(biases).transpose(0, 1).contiguous())
        self.register_buffer("cross_bias", decoder.cross_bias(positions, source_positions).transpose(0, 1).contiguous())

    def forward(
        self,
        tokens: Tensor,
        steps: Tensor,
        slots: Tensor,
        ancestors: Tensor,
        temperature: Tensor,
        ranks: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """One step.

        No value depends on a shape: a runtime on a GPU computes shapes on the host, and a step that waits for a copy
        from there cannot be captured as one launch. Nor is a table indexed with brackets: they become GatherND, whose
        kernel for CUDA copies its strides from memory that is gone when a captured step is launched again.

        Args:
            tokens: INT64 [C, K].
            steps: INT64 [C], the position of each caption's tokens.
            slots: INT64 [C, K], the slots the tokens go to: ``step * K + beam``.
            ancestors: INT64 [C, K, P], the beam whose slot holds each position of a beam's past and present, else -1.
            temperature: FP32 [C].
            ranks: INT64 [M], of which the length alone counts: the candidates wanted of each beam.
            state: the caches of :func:`cache_names`, then the tensors of :func:`cross_names`.

        Returns:
            ids INT64 and logprobs FP32 [C, K, count], eos and unk FP32 [C, K], then the updated caches.
        """
        batch, beams = tokens.shape
        caches, cross = state[: len(state) // 2], state[len(state) // 2 :]
        biases = self._self_bias(steps, ancestors, slots - slots[:, :1])
        cross_bias = self.cross_bias.index_select(0, steps).unsqueeze(2)
        x = self.decoder.embed(self.embed_tokens(tokens), steps[:, None]).flatten(0, 1)
        updated = []
        for index, layer in enumerate(self.layers):
            pair = slice(2 * index, 2 * index + 2)
            x, keys, values = layer(x, slots[:, None, :, None], caches[pair], biases[index], cross[pair], cross_bias)
            updated += [keys, values]
        x = x if self.decoder.layer_norm is None else self.decoder.layer_norm(x)
        temperatures = temperature[:, None].expand(-1, beams).reshape(-1, 1)
        best = [output.unflatten(0, (batch, beams)) for output in self.head(x, temperatures, ranks.shape[0])]
        return (*best, *updated)

    def _self_bias(self, steps: Tensor, ancestors: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        """Every layer's bias [C, H, K, P * K]: positions, and minus infinity off a beam's own past.

        ``numbers`` INT64 [C, K] are the beams' own, 0 to K - 1.
        """
        reach = ancestors.shape[2]
        own = ancestors.unsqueeze(-1) == numbers[:, None, None]  # [C, K, P, K]
        mask = torch.zeros((), dtype=self.self_bias.dtype).masked_fill(~own, float("-inf"))
        bias = self.self_bias.index_select(0, steps)[:, :, :reach]
        bias = bias[:, :, None, :, None] + mask[:, None]
        return bias.flatten(3).split(self.heads, dim=1)
