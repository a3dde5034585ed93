"""fairseq's dictionaries, rewritten as the vocabulary files of the other formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ofa_serving.tokenizer import VOCABULARY_FILES

from .types import CheckpointError

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # come before the dictionary's entries; the mask comes behind them
_MASK = "<mask>"

_ENGLISH_FILES = ("dict.txt", "encoder.json", "vocab.bpe")
_CHINESE_FILES = ("dict.txt", "vocab.txt")
_FOLDERS = {"en": ("BPE", "utils/BPE"), "zh": ("BERT_CN_dict", "utils/BERT_CN_dict")}
_FOLDERS_UP = 6
"""Folders looked into: the checkpoint's own and those above it. OFA's scripts save four below its repository's own, in
``run_scripts/caption/stage1_checkpoints/2_0.06_2500``.
"""


def find_vocabulary(directory: Path, language: str | None) -> tuple[str, dict[str, bytes]]:
    """Find the vocabulary of a fairseq checkpoint in ``directory``.

    Args:
        directory: the checkpoint's folder; it, its ``BPE``, ``utils/BPE``, ``BERT_CN_dict`` and
            ``utils/BERT_CN_dict``, and those of the folders above are looked into.
        language: the language if the checkpoint says it; else what is found first decides.

    Returns:
        The language, and the vocabulary files by name: fairseq's dictionaries rewritten, or those of the other formats.

    Raises:
        CheckpointError: if there is none, or it is damaged.

    """
    for kind in [language] if language else ["en", "zh"]:
        for folder in _folders(directory, kind):
            if found := _read(folder, kind):
                return kind, found
    wanted = " or ".join(f"{_FOLDERS[kind][1]}/{{{', '.join(_files(kind))}}}" for kind in _FOLDERS)
    raise CheckpointError(f"the checkpoint's dictionaries are missing: put {wanted} beside it")


def english_vocabulary(dictionary: str, encoder: str, merges: str) -> dict[str, bytes]:
    """Rewrite ``dict.txt`` (GPT-2 ids in the model's order), ``encoder.json`` (their tokens) and ``vocab.bpe``."""
    tokens = {str(index): token for token, index in json.loads(encoder).items()}
    ordered = [*_SPECIAL, *(tokens.get(entry, entry) for entry in _entries(dictionary)), _MASK]
    vocabulary = {token: index for index, token in enumerate(ordered)}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": merges.encode(),
    }


def chinese_vocabulary(dictionary: str) -> dict[str, bytes]:
    """Rewrite ``dict.txt``, which names the wordpieces themselves."""
    return {"vocab.txt": "".join(f"{token}\n" for token in (*_SPECIAL, *_entries(dictionary), _MASK)).encode()}


def _folders(directory: Path, language: str) -> Iterator[Path]:
    here = directory.resolve()
    for above in [here, *here.parents][:_FOLDERS_UP]:
        yield from (above, *(above / name for name in _FOLDERS[language]))


def _files(language: str) -> tuple[str, ...]:
    return _ENGLISH_FILES if language == "en" else _CHINESE_FILES


def _read(folder: Path, language: str) -> Mapping[str, bytes] | None:
    if all((folder / name).is_file() for name in _files(language)):
        try:
            texts = [(folder / name).read_text(encoding="utf-8") for name in _files(language)]
            return english_vocabulary(*texts) if language == "en" else chinese_vocabulary(texts[0])
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"the dictionaries {', '.join(_files(language))} are damaged") from error
    if all((folder / name).is_file() for name in VOCABULARY_FILES[language]):
        return {name: (folder / name).read_bytes() for name in VOCABULARY_FILES[language]}
    return None


def _entries(dictionary: str) -> Iterator[str]:
    """The first column; the second counts how often a token was seen."""
    for line in dictionary.split("\n"):
        if line.rstrip():
            yield line.rstrip().rsplit(" ", 1)[0]
