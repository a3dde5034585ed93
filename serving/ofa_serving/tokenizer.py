"""Text to tokens and back, as ModelScope's OFA tokenizers do it: English byte-level BPE and Chinese wordpieces.

A served checkpoint holds their files: ``vocab.json`` and ``merges.txt``, or ``vocab.txt``. OFA's image codes and
location bins are in neither; they follow the vocabulary.
"""

from __future__ import annotations

import io
import json
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from .beam_search import SpecialTokens

LANGUAGES = ("en", "zh", "cn")
"""What ``configuration.json`` may name; the last two are the same."""

_SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")  # those a vocabulary lacks are added behind it in this order
_ADDED = (*(f"<code_{i}>" for i in range(8192)), *(f"<bin_{i}>" for i in range(1000)))

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLANKS_AROUND_NON_LATIN = re.compile("(?<=[^ a-zA-Z0-9.,:!?]) +| +(?=[^ a-zA-Z0-9.,:!?])")


class VocabularyError(ValueError):
    """A vocabulary file is missing or unusable; the message names it."""


class Tokenizer(ABC):
    """One checkpoint's vocabulary, and how its captions are written. Safe to use from several threads."""

    files: ClassVar[tuple[str, ...]]
    """The names of the vocabulary's files."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.add_tokens([tokenizers.AddedToken(token, lstrip=token == "<mask>") for token in _SPECIAL])
        tokenizer.add_tokens(list(_ADDED))
        self._tokenizer = tokenizer
        self._skipped = {tokenizer.token_to_id(token) for token in _SPECIAL}
        self._added = {tokenizer.token_to_id(token) for token in _ADDED}
        bos, eos, unk, pad, _ = (tokenizer.token_to_id(token) for token in _SPECIAL)
        self.special = SpecialTokens(bos=bos, pad=pad, eos=eos, unk=unk)

    @staticmethod
    def load(directory: Path, language: str) -> Tokenizer:
        """Read the vocabulary files of ``language`` (one of :data:`LANGUAGES`) from ``directory``.

        Raises:
            VocabularyError: if one of them is missing or not what its name says.

        """
        paths = [directory / name for name in VOCABULARY_FILES[language]]
        return Tokenizer.parse({path.name: path.read_bytes() for path in paths if path.exists()}, language)

    @staticmethod
    def parse(files: Mapping[str, bytes], language: str) -> Tokenizer:
        """Read a vocabulary of ``language`` from its files' contents, by name.

        Raises:
            VocabularyError: if one of them is missing or not what its name says.

        """
        kind = EnglishTokenizer if language == "en" else ChineseTokenizer
        missing = [name for name in kind.files if name not in files]
        if missing:
            raise VocabularyError(f"the vocabulary file {missing[0]} is missing")
        try:
            return kind.read(*(io.StringIO(files[name].decode("utf-8"), newline=None).read() for name in kind.files))
        except Exception as error:  # the library raises plain exceptions, for a merge of unknown tokens for instance
            raise VocabularyError(f"the vocabulary of {' and '.join(kind.files)} cannot be used: {error}") from error

    def is_same_as(self, other: Tokenizer) -> bool:
        """Whether both have the same tokens, ids and merges."""
        return self._tokenizer.to_str() == other._tokenizer.to_str()

    @classmethod
    @abstractmethod
    def read(cls, *texts: str) -> Tokenizer:
        """Read the vocabulary from its files' texts, in the order of :attr:`files`."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, image codes and location bins included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Give the ids of ``text``, without the start and the end of a sentence."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, prompt: str, max_src_length: int = 256) -> list[int]:
        """Give the encoder's text: start, at most ``max_src_length`` tokens of the prompt, end."""
        return [self.special.bos, *self.encode(prompt)[:max_src_length], self.special.eos]

    def decode(self, tokens: Iterable[int]) -> str:
        """Give the text of a hypothesis; special tokens are left out, and added ones stand apart."""
        kept = [token for token in map(int, tokens) if token not in self._skipped]
        parts = []
        for is_added, run in groupby(kept, self._added.__contains__):
            pieces = [piece for piece in map(self._tokenizer.id_to_token, run) if piece is not None]
            parts += pieces if is_added else [self._join(pieces)]
        return " ".join(part for part in parts if part).strip()

    def caption(self, tokens: Iterable[int]) -> str:
        """Give the text of a hypothesis as users see it."""
        return self._tidy(self.decode(tokens))

    @abstractmethod
    def _join(self, pieces: Sequence[str]) -> str:
        """Put the vocabulary's own tokens together."""

    @abstractmethod
    def _tidy(self, text: str) -> str:
        """Finish a caption's text."""


class EnglishTokenizer(Tokenizer):
    """BART's byte-level BPE; captions lose their punctuation."""

    files = ("vocab.json", "merges.txt")
    _bytes = decoders.ByteLevel()

    @classmethod
    def read(cls, *texts: str) -> EnglishTokenizer:
        """Read ``vocab.json`` and ``merges.txt``."""
        vocabulary, merges = texts
        lines = merges.split("\n")[1:-1]  # the first names a version, and nothing follows the last
        pairs = [tuple(line.split()) for line in lines]
        bpe = models.BPE(json.loads(vocabulary), [pair for pair in pairs if len(pair) == 2], unk_token="<unk>")
        tokenizer = tokenizers.Tokenizer(bpe)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return cls(tokenizer)

    def _join(self, pieces: Sequence[str]) -> str:
        return self._bytes.decode(pieces)  # bytes that are no UTF-8 become U+FFFD

    def _tidy(self, text: str) -> str:
        return text.translate(_PUNCTUATION).strip()


class ChineseTokenizer(Tokenizer):
    """BERT's wordpieces, lowercased; captions lose the blanks around all but Latin characters."""

    files = ("vocab.txt",)

    @classmethod
    def read(cls, *texts: str) -> ChineseTokenizer:
        """Read ``vocab.txt``."""
        (text,) = texts
        vocabulary = {token: index for index, token in enumerate(text.removesuffix("\n").split("\n"))}
        tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return cls(tokenizer)

    def _join(self, pieces: Sequence[str]) -> str:
        return " ".join(pieces).replace(" ##", "").strip()

    def _tidy(self, text: str) -> str:
        return _BLANKS_AROUND_NON_LATIN.sub("", text)


VOCABULARY_FILES = {"en": EnglishTokenizer.files, "zh": ChineseTokenizer.files, "cn": ChineseTokenizer.files}
"""The files of each language's vocabulary."""
