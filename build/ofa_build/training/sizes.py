"""The models that are trained on scenes: a student, and a teacher over an image encoder of the same structure."""

from __future__ import annotations

from dataclasses import replace

from ofa_build.model import OFAConfig

_STUDENT = OFAConfig(
    d_model=192,
    encoder_layers=2,
    decoder_layers=3,
    encoder_ffn_dim=768,
    decoder_ffn_dim=768,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    resnet_type="resnet18",
    image_bucket_size=16,
    dropout=0.0,
)
SIZES = {
    "student": _STUDENT,
    "teacher": replace(
        _STUDENT, d_model=256, encoder_layers=4, decoder_layers=4, encoder_ffn_dim=1024, decoder_ffn_dim=1024
    ),
}
"""Nine million parameters, below 20 MB in fp16, and about fifteen."""
