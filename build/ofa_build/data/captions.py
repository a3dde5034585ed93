"""A caption as the decoder is taught it, normalised as ModelScope's trainer does."""

from __future__ import annotations

import string

from ofa_serving.tokenizer import Tokenizer

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(caption: str, max_words: int | None = None) -> str:
    """Drop ASCII punctuation, make every run of blanks one, and keep the first ``max_words`` words."""
    return " ".join(caption.translate(_PUNCTUATION).split()[:max_words])


def encode_target(tokenizer: Tokenizer, caption: str, max_words: int, max_tokens: int, prefix: str = "") -> list[int]:
    """Give what the decoder learns to say: a caption's tokens and the end of sentence.

    Args:
        tokenizer: the checkpoint's.
        caption: as it was written.
        max_words: words that are kept.
        max_tokens: tokens that are kept, the end not counted.
        prefix: what stands before the caption. ModelScope's trainer puts nothing there; OFA's own put a blank, which
            makes the first word another token in English.

    """
    return [*tokenizer.encode(prefix + normalise(caption, max_words))[:max_tokens], tokenizer.special.eos]
