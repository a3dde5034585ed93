"""A checkpoint small enough to train within a test: random weights, pictures of 32 pixels a side."""

from pathlib import Path

import torch
from ofa_build.checkpoint import PipelineSettings, load_checkpoint, save_checkpoint
from ofa_build.model import OFA, OFAConfig
from ofa_serving.generation import GenerationConfig

EMOJI = Path(__file__).parents[2] / "checkpoints" / "emoji"


def write_small(folder: Path, seed: int = 0, beam_size: int = 2, **structure) -> Path:
    """Write it in ModelScope's format, with the vocabulary of the bundled one."""
    emoji = load_checkpoint(EMOJI)
    width = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = OFAConfig(
        vocab_size=emoji.config.vocab_size,
        **{**width, **heads, "resnet_type": "resnet18", "image_bucket_size": 4, "dropout": 0.1, **structure},
    )
    torch.manual_seed(seed)
    generation = GenerationConfig(beam_size=beam_size, max_length=14)
    settings = PipelineSettings(patch_image_size=32, generation=generation)
    save_checkpoint(folder, config, OFA(config).state_dict(), settings, emoji.tokenizer_files)
    return folder


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(checkpoint).state_dict)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
