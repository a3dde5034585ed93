"""Beam search over one caption, rule for rule as ModelScope's generator runs it.

The search holds no vocabulary: an engine hands it the best candidates of each beam with their log-probabilities, as
many as :attr:`BeamSearch.candidates` asks for, and those of the end of sentence and the unknown token. That is enough
to apply every rule exactly, because a rule can only remove tokens that the search can count beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .generation import GenerationConfig

NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class SpecialTokens:
    """The ids with a meaning of their own; the decoder starts at ``bos``."""

    bos: int = 0
    pad: int = 1
    eos: int = 2
    unk: int = 3


@dataclass(frozen=True)
class Hypothesis:
    """One finished caption: ``tokens`` INT32 [T] with the end of sentence, ``logprobs`` FP32 [T] and the score."""

    tokens: np.ndarray
    logprobs: np.ndarray
    score: float


@dataclass(frozen=True)
class Candidates:
    """What an engine returns for K beams: the best M tokens of each, and two tokens that rules need by name.

    Attributes:
        ids: INT64 [..., K, M], by descending log-probability.
        logprobs: FP32 [..., K, M], over the whole vocabulary at the caption's temperature.
        eos: FP32 [..., K], the end of sentence's log-probability.
        unk: FP32 [..., K], the unknown token's.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    eos: np.ndarray
    unk: np.ndarray

    def of(self, caption: int) -> Candidates:
        """One caption's part of a batch."""
        return Candidates(self.ids[caption], self.logprobs[caption], self.eos[caption], self.unk[caption])


class BeamSearch:
    """The state of one caption's search; :meth:`advance` takes it one token further."""

    def __init__(self, settings: GenerationConfig, special: SpecialTokens) -> None:
        beams, length = settings.beam_size, settings.max_length
        self.settings = settings
        self.step = 0
        self.ancestors = np.full((beams, length + 1), -1, np.int64)
        """[K, max_length + 1]: the beam whose cache holds position t of beam k; -1 where there is none yet."""
        self._special = special
        self._tokens = np.full((beams, length + 2), special.pad, np.int64)
        self._tokens[:, 0] = special.bos
        self._scores = np.zeros((beams, length + 1), np.float32)  # cumulative
        self._finished: list[Hypothesis] = []
        self._blocked = self._repeats()
        self._rows = np.arange(beams)
        self.ancestors[:, 0] = self._rows

    @property
    def tokens(self) -> np.ndarray:
        """The tokens [K] to feed at position :attr:`step`."""
        return self._tokens[:, self.step]

    @property
    def candidates(self) -> int:
        """How many candidates a beam must offer: the search takes 2K, the rules may remove the rest."""
        blocked = max(map(len, self._blocked)) if self._blocked else 0
        return 2 * self.settings.beam_size + blocked + 3  # pad, eos and unk

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """What has finished, best first."""
        return sorted(self._finished, key=lambda hypothesis: -hypothesis.score)

    def advance(self, candidates: Candidates) -> bool:
        """Chooses the next tokens among a caption's candidates [K, M].

        Returns:
            Whether the search has ended, after which :attr:`hypotheses` holds its result.
        """
        parents, tokens, scores = self._best(candidates)
        ends = (tokens == self._special.eos) & (scores > NEVER)
        beams = self.settings.beam_size
        for rank in np.flatnonzero(ends[:beams]):  # an end further down is dropped, not finished
            if len(self._finished) < beams:
                self._finish(parents[rank], scores[rank])
        if len(self._finished) == beams or self.step == self.settings.max_length:
            return True
        kept = np.flatnonzero(~ends)[:beams]
        self._continue(parents[kept], tokens[kept], scores[kept])
        return False

    def _best(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parent beam, token and cumulative score of the best 2K continuations, best first."""
        special, count = self._special, candidates.ids.shape[1]
        ids = np.empty((len(candidates.ids), count + 2), np.int64)
        ids[:, :count], ids[:, count], ids[:, count + 1] = candidates.ids, special.eos, special.unk
        scores = np.full(ids.shape, NEVER)
        if self.step < self.settings.max_length:
            named = (candidates.ids == special.eos) | (candidates.ids == special.pad) | (candidates.ids == special.unk)
            scores[:, :count] = np.where(named, NEVER, candidates.logprobs)
            scores[:, count + 1] = candidates.unk - np.float32(self.settings.unk_penalty)
        if self.step >= self.settings.min_length:
            scores[:, count] = candidates.eos
        for row, blocked in enumerate(self._blocked):
            if len(blocked):
                scores[row, np.isin(ids[row], blocked)] = NEVER
        scores[np.isnan(scores)] = NEVER
        if self.step == 0:
            scores, ids = scores[:1], ids[:1]  # all beams are still equal
        else:
            scores += self._scores[:, self.step - 1 : self.step]
        # Sums of float32 log-probabilities do tie exactly. The reference leaves the order of ties to an unstable sort;
        # here it is the higher beam and token first, so that a result never depends on how an engine lists candidates.
        rows = np.repeat(self._rows[: len(ids)], ids.shape[1])
        ids, scores = ids.ravel(), scores.ravel()
        best = np.lexsort((-ids, -rows, -scores))[: 2 * self.settings.beam_size]
        return rows[best], ids[best], scores[best]

    def _finish(self, parent: int, score: np.float32) -> None:
        tokens = np.append(self._tokens[parent, 1 : self.step + 1], self._special.eos).astype(np.int32)
        cumulative = np.append(self._scores[parent, : self.step], score)
        normaliser = np.float32((self.step + 1) ** self.settings.length_penalty)
        logprobs = np.diff(cumulative, prepend=np.float32(0))
        self._finished.append(Hypothesis(tokens, logprobs, float(score / normaliser)))

    def _continue(self, parents: np.ndarray, tokens: np.ndarray, scores: np.ndarray) -> None:
        step = self.step
        self._tokens[:, : step + 1] = self._tokens[parents, : step + 1]
        self._tokens[:, step + 1] = tokens
        self._scores[:, :step] = self._scores[parents, :step]
        self._scores[:, step] = scores
        self.ancestors[:, : step + 1] = self.ancestors[parents, : step + 1]
        self.ancestors[:, step + 1] = self._rows
        self.step = step + 1
        self._blocked = self._repeats()

    def _repeats(self) -> list[np.ndarray]:
        """For each beam, the tokens that would repeat one of its n-grams (the start token counts as one)."""
        size, length = self.settings.no_repeat_ngram_size, self.step + 1
        if size == 0 or length < size:
            return []
        tokens = self._tokens[:, :length]
        if size == 1:
            return list(tokens)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1)  # [K, length - size + 1, size]
        repeated = (windows[:, :, :-1] == tokens[:, None, length - size + 1 :]).all(-1)
        if not repeated.any():
            return []
        return [row[mask, -1] for row, mask in zip(windows, repeated, strict=True)]
