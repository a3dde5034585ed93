"""``configuration.json`` to settings and back: every field that changes a caption is honoured or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ofa_serving.contract import PARAMETERS
from ofa_serving.generation import GenerationConfig
from ofa_serving.tokenizer import LANGUAGES, Tokenizer

from .types import CheckpointError, PipelineSettings

_FILE = "configuration.json"

_GENERATION_FIELDS = {
    "beam_size": "beam_size",
    "min_len": "min_length",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "len_penalty": "length_penalty",
    "temperature": "temperature",
    "unk_penalty": "unk_penalty",
}
"""ModelScope's names of the generation settings, and the contract's."""

_ONLY_MODEL = {"type": "ofa", "multimodal_type": "default", "gen_type": "generation", "answer2label": None}
_ONLY_BEAM_SEARCH = {
    "normalize_scores": True,
    "match_source_len": False,
    "search_strategy": None,
    "lm_model": None,
    "constraint_trie": None,
    "constraint_range": None,
    "gen_code": False,
    "gen_box": False,
    "ignore_eos": False,
    "zero_shot": False,
}
"""Fields whose other values ask for what captioning here does not do."""

_UNUSED_BEAM_SEARCH = {"max_len", "eos", "symbols_to_strip_from_output", "lm_weight"}
"""Fields the reference takes and never looks at."""


def language_of(configuration: Mapping[str, Any]) -> str:
    """Give the language, which says which vocabulary files belong to the checkpoint."""
    language = _section(configuration, "model").get("language", "en")
    if language not in LANGUAGES:
        raise CheckpointError(f"{_FILE}: model.language is {language!r}; supported: {', '.join(LANGUAGES)}")
    return language


def settings_of(configuration: Mapping[str, Any], tokenizer: Tokenizer) -> PipelineSettings:
    """Read ``configuration.json``'s content.

    Args:
        configuration: the file's object; what it leaves out is ModelScope's default.
        tokenizer: the checkpoint's; the longest caption can depend on the length of the prompt.

    Raises:
        CheckpointError: naming the field that cannot be honoured.

    """
    task = configuration.get("task", "image-captioning")
    if task != "image-captioning":
        raise CheckpointError(f"{_FILE}: task is {task!r}; only 'image-captioning' is supported")
    model = _section(configuration, "model")
    _refuse_others(model, _ONLY_MODEL, "model")
    default = PipelineSettings()
    settings = PipelineSettings(
        language=language_of(configuration),
        prompt=_typed(model, "prompt", str, default.prompt),
        patch_image_size=_typed(model, "patch_image_size", int, default.patch_image_size),
        imagenet_default_mean_and_std=_typed(model, "imagenet_default_mean_and_std", bool, False),
        max_src_length=_typed(model, "max_src_length", int, default.max_src_length),
    )
    for name in ("patch_image_size", "max_src_length"):
        if getattr(settings, name) < 1:
            raise CheckpointError(f"{_FILE}: model.{name} is {getattr(settings, name)}; it must be 1 or more")
    prompt_length = len(tokenizer.encode_prompt(settings.prompt, settings.max_src_length))
    generation = generation_of(_section(model, "beam_search"), prompt_length)
    captions = _typed(model, "num_return_sequences", int, 1)
    if not 1 <= captions <= generation.beam_size:
        raise CheckpointError(
            f"{_FILE}: model.num_return_sequences is {captions}; supported: 1 to {generation.beam_size}, the beam_size"
        )
    return replace(settings, generation=replace(generation, num_captions=captions))


def generation_of(beam_search: Mapping[str, Any], prompt_length: int) -> GenerationConfig:
    """Read the generation settings; ``prompt_length`` counts the prompt's tokens with start and end."""
    _refuse_others(beam_search, _ONLY_BEAM_SEARCH, "model.beam_search")
    lengths = {"max_len_a", "max_len_b"}
    unknown = set(beam_search) - set(_GENERATION_FIELDS) - set(_ONLY_BEAM_SEARCH) - _UNUSED_BEAM_SEARCH - lengths
    if unknown:
        raise CheckpointError(f"{_FILE}: model.beam_search.{min(unknown)} is not known")
    default = GenerationConfig()
    values = {}
    for name, known_as in _GENERATION_FIELDS.items():
        kind = PARAMETERS[known_as].kind
        values[known_as] = _typed(beam_search, name, kind, getattr(default, known_as), "model.beam_search")
        _check_range(name, known_as, values[known_as])
    slope = _typed(beam_search, "max_len_a", float, 0.0, "model.beam_search")
    base = _typed(beam_search, "max_len_b", float, float(default.max_length), "model.beam_search")
    values["max_length"] = int(slope * prompt_length + base)
    _check_range("max_len_b" if slope == 0 else "max_len_a * source + max_len_b", "max_length", values["max_length"])
    if values["min_length"] > values["max_length"]:
        raise CheckpointError(f"{_FILE}: model.beam_search.min_len is above the longest caption")
    return GenerationConfig(**values)


def configuration_of(settings: PipelineSettings) -> dict[str, Any]:
    """Write what :func:`settings_of` reads, as ModelScope's pipeline wants it."""
    generation = settings.generation
    beam_search = {name: getattr(generation, known_as) for name, known_as in _GENERATION_FIELDS.items()}
    return {
        "framework": "pytorch",
        "task": "image-captioning",
        "model": {
            "type": "ofa",
            "language": settings.language,
            "prompt": settings.prompt,
            "patch_image_size": settings.patch_image_size,
            "max_image_size": settings.patch_image_size,
            "imagenet_default_mean_and_std": settings.imagenet_default_mean_and_std,
            "max_src_length": settings.max_src_length,
            "gen_type": "generation",
            "num_return_sequences": generation.num_captions,
            "beam_search": {**beam_search, "max_len_b": generation.max_length},
        },
        "pipeline": {"type": "image-captioning"},
        "preprocessor": {"type": "ofa-tasks-preprocessor"},
        "dataset": {"column_map": {"text": "caption"}},
    }


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{_FILE}: {name} is not an object")
    return section


def _typed(values: Mapping[str, Any], name: str, kind: type, default: Any, section: str = "model") -> Any:
    value = values.get(name, default)
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and kind(value) == value:
            return kind(value)
    elif isinstance(value, kind):
        return value
    raise CheckpointError(f"{_FILE}: {section}.{name} is {value!r}, not of type {kind.__name__}")


def _check_range(name: str, known_as: str, value: float) -> None:
    if value not in PARAMETERS[known_as]:
        raise CheckpointError(f"{_FILE}: model.beam_search.{name} is {value}; supported: {PARAMETERS[known_as]}")


def _refuse_others(values: Mapping[str, Any], only: Mapping[str, Any], section: str) -> None:
    for name, supported in only.items():
        if (value := values.get(name, supported)) != supported:
            raise CheckpointError(f"{_FILE}: {section}.{name} is {value!r}; only {supported!r} is supported")
