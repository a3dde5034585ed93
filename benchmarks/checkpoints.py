"""Checkpoints with OFA's real shapes and random weights: what they say is gibberish, what they cost is real."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from ofa_build.checkpoint import PipelineSettings, save_checkpoint
from ofa_build.model import OFA, OFAConfig
from ofa_build.replacing import replacing

SIZES = {
    "tiny": {"d_model": 256, "heads": 4, "layers": (4, 4), "resnet_type": "resnet50"},
    "medium": {"d_model": 512, "heads": 8, "layers": (4, 4), "resnet_type": "resnet101"},
    "base": {"d_model": 768, "heads": 12, "layers": (6, 6), "resnet_type": "resnet101"},
    "large": {"d_model": 1024, "heads": 16, "layers": (12, 12), "resnet_type": "resnet152"},
    "huge": {"d_model": 1280, "heads": 16, "layers": (24, 12), "resnet_type": "resnet152"},
}

_ENTRIES = 50265


def config_of(size: str) -> OFAConfig:
    """The structure of a size."""
    shape = SIZES[size]
    width, (encoder, decoder) = shape["d_model"], shape["layers"]
    return OFAConfig(
        d_model=width,
        encoder_attention_heads=shape["heads"],
        decoder_attention_heads=shape["heads"],
        encoder_layers=encoder,
        decoder_layers=decoder,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        resnet_type=shape["resnet_type"],
    )


def write_random(size: str, folder: Path, image_size: int = 480, seed: int = 0) -> Path:
    """Writes a ModelScope-format checkpoint of a size, deterministic in ``seed``; an existing one is kept."""
    if (folder / "pytorch_model.bin").exists():
        return folder
    config = config_of(size)
    torch.manual_seed(seed)
    model = OFA(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_images" in name:
                continue
            if "rel_pos_table" in name:
                parameter.normal_(0, 0.5)
            elif parameter.dim() > 1:
                parameter.mul_(3.0)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    settings = PipelineSettings(patch_image_size=image_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as whole:  # what an interruption leaves is not taken for an existing one
        save_checkpoint(whole, config, model.state_dict(), settings, _vocabulary())
    return folder


def _vocabulary() -> dict[str, bytes]:
    """A byte-level BPE without merges, filled up to BART's size, so that ids reach OFA's range."""
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    tokens += [f"Ġw{number}" for number in range(_ENTRIES - len(tokens) - 1)] + ["<mask>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": b"#version: 0.2\n",
    }
