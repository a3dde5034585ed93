"""ModelScope and Hugging Face directories; they differ in that the former has a ``configuration.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ofa_serving.tokenizer import VOCABULARY_FILES, Tokenizer, VocabularyError

from ..model.config import ConfigError, OFAConfig
from .files import find_weights, read_weights, sha256
from .settings import language_of, settings_of
from .types import CHINESE_PROMPT, Checkpoint, CheckpointError, PipelineSettings
from .weights import fit_weights

_TOKENIZER_CONFIG = {"clean_up_tokenization_spaces": False, "add_prefix_space": False, "do_lower_case": True}
"""What a ``tokenizer_config.json`` may say of how texts are read and written."""


def read_directory(directory: Path, expected: str | None = None) -> Checkpoint:
    """Read a checkpoint directory, whose weights hash to what is ``expected``, if anything is.

    Raises:
        CheckpointError: naming the file, field or weight that is missing or cannot be honoured.

    """
    config = read_config(_json(directory, "config.json"))
    is_modelscope = (directory / "configuration.json").is_file()
    configuration = _json(directory, "configuration.json") if is_modelscope else guess_configuration(directory)
    _check_tokenizer_config(directory)
    language = language_of(configuration)
    paths = [directory / name for name in VOCABULARY_FILES[language]]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    tokenizer = read_tokenizer(files, language)
    settings = settings_of(configuration, tokenizer)
    check_sizes(config, settings, tokenizer)
    weights = find_weights(directory)
    digest = sha256(weights, expected)
    return Checkpoint(
        config=config,
        settings=settings,
        state_dict=fit_weights(read_weights(weights), config),
        tokenizer_files=files,
        source_format="modelscope" if is_modelscope else "huggingface",
        sha256=digest,
    )


def read_config(values: Mapping[str, Any], source: str = "config.json") -> OFAConfig:
    """Read ``config.json``'s content, naming its source and the field in a refusal."""
    for known in fields(OFAConfig):
        kind, value = type(known.default), values.get(known.name, known.default)
        is_kind = type(value) is kind or (kind is float and type(value) is int)
        if not is_kind or (kind is int and value < (0 if known.name.endswith("_token_id") else 1)):
            raise CheckpointError(f"{source}: {known.name} is {value!r}, where {known.default!r} is usual")
    try:
        return OFAConfig.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def read_tokenizer(files: Mapping[str, bytes], language: str) -> Tokenizer:
    """Read the vocabulary, as a part of a checkpoint."""
    try:
        return Tokenizer.parse(files, language)
    except VocabularyError as error:
        raise CheckpointError(str(error)) from error


def guess_configuration(directory: Path) -> dict[str, Any]:
    """Give what a ``configuration.json`` would say of a directory that has none: the language, by its vocabulary."""
    if (directory / "vocab.txt").is_file():
        return {"model": {"language": "zh", "prompt": CHINESE_PROMPT}}
    return {}


def check_sizes(config: OFAConfig, settings: PipelineSettings, tokenizer: Tokenizer) -> None:
    """Check that structure, settings and vocabulary belong together.

    Raises:
        CheckpointError: naming what does not.

    """
    if config.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"vocab_size is {config.vocab_size}, but the vocabulary files with OFA's image codes and "
            f"location bins make {tokenizer.vocab_size}"
        )
    for name in ("bos", "pad", "eos"):
        ours, theirs = getattr(config, f"{name}_token_id"), getattr(tokenizer.special, name)
        if ours != theirs:
            raise CheckpointError(f"{name}_token_id is {ours}, but {theirs} in the vocabulary files")
    prompt_length = len(tokenizer.encode_prompt(settings.prompt, settings.max_src_length))
    for what, length in (("the prompt", prompt_length), ("the longest caption", settings.generation.max_length + 1)):
        if length > config.max_position_embeddings:
            raise CheckpointError(
                f"max_position_embeddings is {config.max_position_embeddings}, but {what} has {length} tokens"
            )
    try:
        config.patches(settings.patch_image_size)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _check_tokenizer_config(directory: Path) -> None:
    if not (directory / "tokenizer_config.json").is_file():
        return
    values = _json(directory, "tokenizer_config.json")
    for name, supported in _TOKENIZER_CONFIG.items():
        if values.get(name, supported) != supported:
            raise CheckpointError(f"tokenizer_config.json: {name} is {values[name]!r}; only {supported} is supported")


def _json(directory: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads((directory / name).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory.name}/{name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    return values
