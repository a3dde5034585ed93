"""fairseq's ``.pt`` files: weights under other names, and a structure that is told by arguments and shapes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.config import RESNET_BLOCKS, OFAConfig
from .dictionaries import find_vocabulary
from .directory import check_sizes, read_config, read_tokenizer
from .files import read_pickle, sha256
from .settings import settings_of
from .types import CHINESE_PROMPT, ENGLISH_PROMPT, Checkpoint, CheckpointError
from .weights import fit_weights, is_derived

_RENAMES = (
    ("self_attn_ln", "self_attn_mid_layer_norm"),
    ("ffn_layernorm", "ffn_layer_norm"),
    ("cross_attn_ln", "cross_attn_mid_layer_norm"),
    ("encoder_attn", "cross_attn"),
    ("attn_ln", "self_attn_mid_layer_norm"),
)
"""fairseq's names and the other formats'; the order matters, since some names hold others."""

_ONLY = {
    "sync_bn": False,  # its batch norms have another epsilon
    "scale_resids": False,
    "adapter": False,
    "encoder_prompt": False,
    "decoder_prompt": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "adaptive_input": False,
    "constraint_range": None,
    "resnet_model_path": None,
    "code_dict_size": 8192,
    "num_bins": 1000,
}
"""Arguments whose other values make another model or another vocabulary."""

_SHARING = ("share_decoder_input_output_embed", "share_all_embeddings")

_EVALUATION = {
    "beam": "beam_size",
    "min_len": "min_len",
    "max_len_a": "max_len_a",
    "max_len_b": "max_len_b",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "lenpen": "len_penalty",
    "unkpen": "unk_penalty",
    "temperature": "temperature",
}
"""fairseq's names of generation settings, and ModelScope's."""


def read_fairseq(path: Path, expected: str | None = None) -> Checkpoint:
    """Read a ``.pt`` file and the dictionaries beside it (in its folder, or ``utils/BPE`` of that or one above).

    Args:
        path: the file.
        expected: what it must hash to, if anything.

    Raises:
        CheckpointError: naming what is missing or cannot be honoured.

    """
    digest = sha256([path], expected)
    content = read_pickle(path)
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path.name} is no fairseq checkpoint: it has no weights under 'model'")
    arguments = _arguments(content)
    for name, supported in _ONLY.items():
        if (value := arguments.get(name, supported)) != supported:
            raise CheckpointError(f"{path.name}: {name} is {value!r}; only {supported!r} is supported")
    state = {_renamed(name): value for name, value in weights.items()}
    config = _config(state, arguments)
    _fill_head_scales(state, config)
    language, files = find_vocabulary(path.parent, {"bert": "zh", "gpt2": "en"}.get(arguments.get("bpe")))
    tokenizer = read_tokenizer(files, language)
    settings = settings_of(_configuration(arguments, language), tokenizer)
    check_sizes(config, settings, tokenizer)
    return Checkpoint(
        config=config,
        settings=settings,
        state_dict=fit_weights(state, config),
        tokenizer_files=files,
        source_format="fairseq",
        sha256=digest,
    )


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments in one dictionary, whether the file has them as a namespace, or by section."""
    sections = _values(content.get("cfg"))
    parts = (sections.get("task"), sections.get("model"), content.get("args"))
    return {name: value for part in parts for name, value in _values(part).items() if value is not None}


def _values(part: Any) -> Mapping[str, Any]:
    if isinstance(part, argparse.Namespace):
        return vars(part)
    return part if isinstance(part, Mapping) else {}


def _renamed(name: str) -> str:
    for old, new in _RENAMES:
        name = name.replace(old, new)
    return name


def _config(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> OFAConfig:
    """The structure: what shapes tell from the weights, the rest from the arguments or OFA's defaults."""
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not is_derived(name)}
        values = _structure(shapes)
    except (KeyError, ValueError) as error:
        raise CheckpointError("the fairseq checkpoint is not of an OFA model") from error
    values |= {
        "activation_function": arguments.get("activation_fn", "gelu"),
        "attn_scale_factor": arguments.get("attn_scale_factor", 2.0),
        "scale_embedding": not arguments.get("no_scale_embedding", True),
        "orig_patch_image_size": arguments.get("orig_patch_image_size", 256),
        "share_decoder_input_output_embed": any(arguments.get(name, True) for name in _SHARING),
    }
    flags = ("entangle_position_embedding", "disable_entangle", "interpolate_position")
    return read_config({**values, **{name: bool(arguments.get(name, False)) for name in flags}}, "fairseq's arguments")


def _fill_head_scales(state: dict[str, Tensor], config: OFAConfig) -> None:
    """Scale the heads by one where a model was trained without ``scale_heads``; the other formats always have them."""
    for name in list(state):
        if name.endswith("attn.q_proj.weight"):
            state.setdefault(name.replace("q_proj.weight", "c_attn"), torch.ones(config.encoder_attention_heads))


def _structure(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    vocabulary, width = shapes["encoder.embed_tokens.weight"]
    tables, heads = shapes["encoder.token_rel_pos_table_list.0.weight"]
    blocks = tuple(_count(shapes, f"encoder.embed_images.layer{stage}.") for stage in (1, 2, 3))
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "max_position_embeddings": shapes["encoder.embed_positions.weight"][0] - 2,
        "encoder_layers": _count(shapes, "encoder.layers."),
        "decoder_layers": _count(shapes, "decoder.layers."),
        "encoder_ffn_dim": shapes["encoder.layers.0.fc1.weight"][0],
        "decoder_ffn_dim": shapes["decoder.layers.0.fc1.weight"][0],
        "encoder_attention_heads": heads,
        "decoder_attention_heads": shapes["decoder.token_rel_pos_table_list.0.weight"][1],
        "token_bucket_size": (tables + 1) // 2,
        "image_bucket_size": round((shapes["encoder.embed_image_positions.weight"][0] - 1) ** 0.5),
        "resnet_type": {counts: name for name, counts in RESNET_BLOCKS.items()}.get(blocks, f"of {blocks} blocks"),
        "encoder_normalize_before": "encoder.layer_norm.weight" in shapes,
        "decoder_normalize_before": "decoder.layer_norm.weight" in shapes,
        "normformer": "encoder.layers.0.ffn_layer_norm.weight" in shapes,
        "layernorm_embedding": "encoder.layernorm_embedding.weight" in shapes,
        "patch_layernorm_embedding": "encoder.patch_layernorm_embedding.weight" in shapes,
        "code_layernorm_embedding": "decoder.code_layernorm_embedding.weight" in shapes,
        "add_type_embedding": "encoder.type_embedding.weight" in shapes,
    }


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _configuration(arguments: Mapping[str, Any], language: str) -> dict[str, Any]:
    """What ModelScope's ``configuration.json`` would say; evaluation's settings are the captions'."""
    model: dict[str, Any] = {"language": language, "prompt": ENGLISH_PROMPT if language == "en" else CHINESE_PROMPT}
    for name in ("patch_image_size", "imagenet_default_mean_and_std", "max_src_length"):
        if name in arguments:
            model[name] = arguments[name]
    try:
        evaluation = json.loads(arguments.get("eval_args") or "{}")
    except (TypeError, ValueError) as error:
        raise CheckpointError("the fairseq checkpoint's eval_args are not JSON") from error
    model["beam_search"] = {new: evaluation[old] for old, new in _EVALUATION.items() if old in evaluation}
    return {"model": model}
