"""CIDEr-D as a reward: n-gram statistics of the training captions are counted once, then single captions are scored.

Vedantam et al., 2015. ``pycocoevalcap`` computes the same for a whole corpus; a reward needs it caption by caption,
thousands of times.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..evaluation.metrics import tokenize_simply

ORDERS = 4
SIGMA = 6.0
"""Of the penalty for another length, in words."""
END = "<eos>"
"""Counts as a word, as in OFA's reward: otherwise captions that stop in the middle score as well."""

Ngram = tuple[str, ...]


class CiderD:
    """Scores captions against references, with the frequencies of a corpus of references.

    Args:
        corpus: every image's references.

    """

    def __init__(self, corpus: Iterable[Sequence[str]]) -> None:
        self._frequency: Counter[Ngram] = Counter()
        images = 0
        for references in corpus:
            images += 1
            self._frequency.update({ngram for words in _split(references) for ngram in _ngrams(words)})
        self._log_images = math.log(max(1, images))

    def score(self, caption: str, references: Sequence[str]) -> float:
        """Give CIDEr-D, 0 to 10 or so, of one caption."""
        (words,), others = _split([caption]), _split(references)
        vector, norms = self._vector(words)
        total = 0.0
        for other in others:
            reference, reference_norms = self._vector(other)
            penalty = math.exp(-((max(0, len(words) - 1) - max(0, len(other) - 1)) ** 2) / (2 * SIGMA**2))
            for order in range(ORDERS):
                pairs = vector[order].items()
                overlap = sum(min(value, reference[order].get(gram, 0.0)) * reference[order].get(gram, 0.0)
                              for gram, value in pairs)  # fmt: skip
                norm = norms[order] * reference_norms[order]
                total += penalty * overlap / norm if norm else 0.0
        return 10 * total / ORDERS / len(others)

    def _vector(self, words: Sequence[str]) -> tuple[list[dict[Ngram, float]], list[float]]:
        """Weigh each n-gram by its count and its rarity; with each order's length."""
        vector: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
        for ngram, count in _ngrams(words).items():
            rarity = self._log_images - math.log(max(1, self._frequency[ngram]))
            vector[len(ngram) - 1][ngram] = count * rarity
        return vector, [math.sqrt(sum(value**2 for value in part.values())) for part in vector]


def _split(captions: Sequence[str]) -> list[list[str]]:
    return [[*text.split(), END] for text in tokenize_simply({"": captions})[""]]


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1)
    )
