"""Checkpoints with random weights that differ in structure from the golden ones, written by this project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from cases import CASES
from ofa_build.checkpoint import PipelineSettings, load_checkpoint, save_checkpoint
from ofa_build.model import OFA, OFAConfig
from ofa_serving.generation import GenerationConfig

SMALL = {
    "d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 160, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "resnet_type": "resnet18", "image_bucket_size": 12,
}  # fmt: skip

VARIANTS = {
    "post-norm": {"encoder_normalize_before": False, "decoder_normalize_before": False},
    "no-normformer": {"normformer": False},
    "entangled": {"entangle_position_embedding": True},
    "entangled-in-the-encoder": {"entangle_position_embedding": True, "disable_entangle": True},
    "no-types-no-embedding-norms": {
        "add_type_embedding": False, "layernorm_embedding": False, "patch_layernorm_embedding": False,
    },
    "gamma": {"use_gamma_feature": True},
    "own-output-projection": {"share_decoder_input_output_embed": False},
    "relu-other-scales": {"activation_function": "relu", "attn_scale_factor": 3.0, "scale_embedding": True},
    "small-buckets": {"token_bucket_size": 8, "share_attn_bias": True},
    "chinese": {},
}  # fmt: skip

SETTINGS = {
    "entangled": GenerationConfig(beam_size=7, max_length=24, no_repeat_ngram_size=2, length_penalty=0.7),
    "gamma": GenerationConfig(beam_size=1, max_length=10, min_length=4),
    "chinese": GenerationConfig(beam_size=8, max_length=40, temperature=1.3),
}


def write(name: str, folder: Path, seed: int) -> None:
    """Writes one variant in ModelScope's format."""
    golden = load_checkpoint(str(CASES[2 if name == "chinese" else 0].checkpoint))
    config = OFAConfig(vocab_size=golden.config.vocab_size, **SMALL, **VARIANTS[name])
    settings = replace(
        PipelineSettings(language=golden.settings.language, prompt=golden.settings.prompt),
        patch_image_size=112,
        generation=SETTINGS.get(name, GenerationConfig()),
    )
    torch.manual_seed(seed)
    model = OFA(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "embed_images" not in parameter_name:
                scale = 0.3 if parameter.dim() > 1 else 0.1
                parameter.add_(torch.randn_like(parameter) * scale)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    save_checkpoint(folder, config, model.state_dict(), settings, golden.tokenizer_files)
