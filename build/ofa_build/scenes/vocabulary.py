"""The scenes' own byte-level BPE: small, in BART's file format, with every caption word one token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ofa_serving.tokenizer import Tokenizer
from tokenizers import ByteLevelBPETokenizer

from ofa_build.checkpoint.types import ENGLISH_PROMPT
from ofa_build.scenes.objects import COUNT_WORDS, OBJECTS
from ofa_build.scenes.sampler import BACKGROUND_COLOURS

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_LARGE_ENOUGH = 4096


def _corpus() -> Iterator[str]:
    """Yield every word a caption can hold, as it stands in one: first without a blank before it, or after one."""
    yield ENGLISH_PROMPT
    for item in OBJECTS:
        for count in (1, *COUNT_WORDS):
            phrase = item.phrase(count)
            yield from (phrase, f" {phrase}")
    yield from (f" on a {colour} background" for colour in BACKGROUND_COLOURS)
    yield from (" to the left of", " above", " in front of", " between", " and", " on an orange background")


def write_vocabulary(directory: Path) -> int:
    """Trains the vocabulary, writes ``vocab.json`` and ``merges.txt``, and returns the model's ``vocab_size``."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        _corpus(), vocab_size=_LARGE_ENOUGH, min_frequency=1, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(directory))
    path = directory / "vocab.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries["<mask>"] = len(entries)
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return Tokenizer.load(directory, "en").vocab_size
