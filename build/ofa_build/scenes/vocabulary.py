"""The scenes' own byte-level BPE: small, in BART's file format, with every caption word one token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

from ofa_build.scenes.objects import COUNT_WORDS, OBJECTS
from ofa_build.scenes.sampler import BACKGROUND_COLOURS

PROMPT = " what does the image describe?"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
BOS, PAD, EOS = 0, 1, 2
ADDED_TOKENS = 8192 + 1000
"""OFA's image codes and location bins, which follow the vocabulary's entries and are in no file."""

_LARGE_ENOUGH = 4096


def _corpus() -> Iterator[str]:
    """Yield every word a caption can hold, as it stands in one: first without a blank before it, or after one."""
    yield PROMPT
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
    return len(entries) + ADDED_TOKENS


class CaptionTokenizer:
    """Turns captions into training targets and back, as OFA's own preprocessing does."""

    def __init__(self, directory: Path) -> None:
        self._bpe = ByteLevelBPETokenizer.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))

    def prompt(self) -> list[int]:
        """Encode the prompt, with its first and last token."""
        return [BOS, *self._bpe.encode(PROMPT).ids, EOS]

    def target(self, caption: str) -> list[int]:
        """Encode what the decoder learns to say: the caption and the end."""
        return [*self._bpe.encode(caption).ids, EOS]

    def text(self, tokens: list[int]) -> str:
        """Decode tokens up to the first end."""
        end = tokens.index(EOS) if EOS in tokens else len(tokens)
        return self._bpe.decode(tokens[:end]).strip()
