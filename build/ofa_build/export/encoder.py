"""The encoder as one graph: uint8 pixels in, states out; normalisation inside, BatchNorm and positions folded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..model import OFA
from ..model.resnet import Bottleneck, ResNet
from .attention import folded_output, fused_projection, split_heads

FOLDED_BIAS_BYTES = 64 << 20
"""Position biases up to this size (float32, all layers) stand in the graph; larger ones are gathered from their tables
when the graph is loaded, which keeps the file small."""


class EncoderGraph(nn.Module):
    """``pixels`` UINT8 [B, S, S, 3] to ``hidden`` [B, N, d] for one image size and one prompt."""

    def __init__(
        self, model: OFA, prompt: Tensor, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        encoder = model.encoder
        self.encoder = encoder
        self.side = model.config.patches(image_size)
        self.prompt_length = len(prompt)
        self.resnet = fold_batch_norms(encoder.embed_images)
        scale = 1 / torch.tensor(std)
        # No buffers: they stay float32 when the graph becomes float16.
        self.pixel_scale = (scale / 255).view(1, 3, 1, 1)
        self.pixel_shift = (-torch.tensor(mean) * scale).view(1, 3, 1, 1)
        self.projections = nn.ModuleList([fused_projection(layer.self_attn) for layer in encoder.layers])
        self.outputs = nn.ModuleList([folded_output(layer.self_attn) for layer in encoder.layers])

        tables = encoder.position_embeddings(self.side, self.prompt_length)
        self.positions = tuple(table.detach().clone() for table in tables)  # no views of what may be halved
        self.register_buffer("absolute", encoder.absolute_bias(self.positions[2]))
        self.register_buffer("prompt", prompt)
        layers = len(encoder.layers)
        self.biases = None
        if layers * self.absolute.nbytes <= FOLDED_BIAS_BYTES:
            relative = [encoder.relative_bias(layer, self.side, self.prompt_length) for layer in range(layers)]
            self.biases = nn.ParameterList([self.absolute + bias for bias in relative])

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels UINT8 [B, S, S, 3], RGB, to states [B, N, d] of the weights' type."""
        encoder, heads = self.encoder, self.encoder.config.encoder_attention_heads
        # Cast first: TensorRT casts uint8 inputs and does nothing else with them.
        image = pixels.float().permute(0, 3, 1, 2) * self.pixel_scale + self.pixel_shift
        features = self.resnet(image.to(self.absolute.dtype))
        x = encoder.embed(features, self.prompt, tuple(table.to(features.dtype) for table in self.positions))
        batch, length, width = x.shape
        x = x.flatten(0, 1)
        for index, layer in enumerate(encoder.layers):
            qkv = self.projections[index](layer.before_attention(x))
            queries, keys, values = split_heads(qkv, batch, length, heads)
            weights = (queries @ keys.transpose(-1, -2) + self._bias(index)).softmax(-1)
            mixed = (weights @ values).transpose(1, 2).reshape(batch * length, width)
            x = layer.feed_forward(layer.after_attention(x, self.outputs[index](mixed)))
        x = x.view(batch, length, width)  # before the norm: OpenVINO fails to read an int8 graph that has it after
        return x if encoder.layer_norm is None else encoder.layer_norm(x)

    def _bias(self, layer: int) -> Tensor:
        if self.biases is not None:
            return self.biases[layer]
        return self.absolute + self.encoder.relative_bias(layer, self.side, self.prompt_length)


def fold_batch_norms(resnet: ResNet) -> ResNet:
    """A copy whose BatchNorms are part of the convolutions before them."""
    resnet = copy.deepcopy(resnet).eval()
    for module in resnet.modules():
        if isinstance(module, ResNet | Bottleneck):
            for number in range(1, 4):
                norm = getattr(module, f"bn{number}", None)
                if norm is not None:
                    convolution = getattr(module, f"conv{number}")
                    setattr(module, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
                    setattr(module, f"bn{number}", nn.Identity())
        if isinstance(module, Bottleneck) and module.downsample is not None:
            module.downsample = nn.Sequential(fuse_conv_bn_eval(*module.downsample))
    return resnet
