"""Beam search, rule for rule as ModelScope's generator runs it, but that it ends once the rest cannot matter.

The search holds no vocabulary: an engine hands it the best candidates of each beam with their log-probabilities, as
many as :attr:`BeamSearches.candidates` asks for, and those of the end of sentence and the unknown token. That is enough
to apply every rule exactly, because a rule can only remove tokens that the search can count beforehand.

ModelScope's goes on until as many hypotheses as beams have finished. A hypothesis loses with every token, and the
longest divides its loss by most: so it is known before whether a running one can still pass one that has finished, and
the best ``num_captions`` come out as they would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .generation import GenerationConfig

NEVER = np.float32(-np.inf)

_ROUNDING = np.float32(1e-4)
"""What the tokens still to come could add at most: engines give log-probabilities that are rounded."""


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


class BeamSearches:
    """The searches of C captions with one beam size K, each at its own position, in the order of an engine's batch.

    :meth:`advance` takes all of them one token further at once: a rule costs the same few operations however many
    captions there are. Each counts: after an engine's step none of this is left in the processor's caches.
    """

    def __init__(self, beam_size: int, special: SpecialTokens) -> None:
        self._beams, self._special = beam_size, special
        self._rows = np.arange(beam_size)
        self._finished: list[list[Hypothesis]] = []
        self.steps = np.zeros(0, np.int64)
        """INT64 [C], the position of each caption's tokens."""
        # By caption, beam and position; the cumulative log-probability stands at the position that led to it.
        self._past = np.zeros((2, 0, beam_size, 0), np.int64)  # the tokens, and whose cache holds each position
        self._scores = np.zeros((0, beam_size, 0), np.float32)
        self._totals = np.zeros((0, beam_size), np.float32)
        self._to_beat = np.zeros(0, np.float32)  # the score of the last finished one that is wanted
        self._set([])

    @property
    def tokens(self) -> np.ndarray:
        """The tokens INT64 [C, K] to feed at :attr:`steps`."""
        return self._past[0, self._each, self._rows, self.steps[:, None]]

    @property
    def ancestors(self) -> np.ndarray:
        """INT64 [C, K, P or more]: the beam whose cache holds position t of beam k; -1 where there is none yet."""
        return self._past[1]

    @property
    def reach(self) -> int:
        """The positions that any caption has, P."""
        return int(self.steps.max(initial=-1)) + 1

    @property
    def candidates(self) -> int:
        """How many candidates a beam must offer: the search takes 2K, the rules may remove the rest."""
        return 2 * self._beams + max(map(len, self._blocked.values()), default=0) + 3  # pad, eos and unk

    def hypotheses(self, caption: int) -> list[Hypothesis]:
        """What has finished, best first; the best ``num_captions`` are final once the search has ended."""
        return sorted(self._finished[caption], key=lambda hypothesis: -hypothesis.score)

    def join(self, settings: Sequence[GenerationConfig]) -> None:
        """Appends captions."""
        more, everybody = len(settings), [*self._settings, *settings]
        self._finished += [[] for _ in settings]
        self._extend(more, max(setting.max_length for setting in everybody) + 2)
        self._past[0, -more:, :, 0] = self._special.bos
        self._past[1, -more:, :, 0] = self._rows
        self.steps = np.append(self.steps, np.zeros(more, np.int64))
        self._totals = np.append(self._totals, np.zeros((more, self._beams), np.float32), axis=0)
        self._to_beat = np.append(self._to_beat, np.full(more, NEVER))
        self._set(everybody)

    def keep(self, captions: Sequence[int]) -> None:
        """Leaves only these captions; the i-th one named becomes caption i."""
        self._finished = [self._finished[caption] for caption in captions]
        chosen = np.asarray(captions, np.int64)
        self._past = self._past[:, chosen]
        for name in ("steps", "_scores", "_totals", "_to_beat"):
            setattr(self, name, getattr(self, name)[chosen])
        self._set([self._settings[caption] for caption in captions])

    def advance(self, candidates: Candidates) -> np.ndarray:
        """Chooses the next tokens among the captions' candidates [C, K, M].

        Returns:
            BOOL [C], whose search has ended; their :meth:`hypotheses` hold the result, and they must not stay.
        """
        parents, tokens, scores = self._best(candidates)
        ended = self.steps == self._max_length
        ends = tokens == self._special.eos
        going: tuple = (slice(None), slice(self._beams))
        if ends.any():
            ends &= scores > NEVER
            for caption, rank in zip(*np.nonzero(ends[:, : self._beams]), strict=True):  # one further down is dropped
                if len(self._finished[caption]) < self._beams:
                    self._finish(caption, parents[caption, rank], scores[caption, rank])
            ended |= [len(finished) == self._beams for finished in self._finished]
            going = self._each, np.argsort(ends, axis=1, kind="stable")[:, : self._beams]
        scores = scores[going]
        # So have those whose wanted hypotheses none that runs on can pass.
        ended |= (self._to_beat > NEVER) & (self._to_beat >= (scores[:, 0] + _ROUNDING) / self._most)
        self._continue(parents[going], tokens[going], scores)
        return ended

    def _set(self, settings: list[GenerationConfig]) -> None:
        """Takes note of every caption's settings, as arrays [C]."""
        self._settings, self._each = settings, np.arange(len(settings))[:, None]
        self.temperature = np.array([setting.temperature for setting in settings], np.float32)
        self._max_length = np.array([setting.max_length for setting in settings], np.int64)
        self._min_length = np.array([setting.min_length for setting in settings], np.int64)
        self._most = np.float32((self._max_length + 1) ** np.array([setting.length_penalty for setting in settings]))
        self._unk_penalty = np.array([setting.unk_penalty for setting in settings], np.float32)[:, None]
        sizes = np.array([setting.no_repeat_ngram_size for setting in settings], np.int64)
        self._last_two = np.empty((len(settings), self._beams, 2), np.int64)
        self._last_two[:] = self._special.eos, self._special.unk
        self._ngrams = {size: np.flatnonzero(sizes == size) for size in set(sizes.tolist()) - {0}}
        self._blocked = self._repeats()

    def _extend(self, captions: int, length: int) -> None:
        """Makes room for so many more captions, and for this many positions of each."""
        grown = ((0, captions), (0, 0), (0, max(length - self._scores.shape[2], 0)))
        empty = self._special.pad, -1
        parts = zip(self._past, empty, strict=True)
        self._past = np.stack([np.pad(part, grown, constant_values=value) for part, value in parts])
        self._scores = np.pad(self._scores, grown)

    def _best(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parent beam, token and cumulative score [C, 2K] of the best continuations, best first."""
        ids, scores = self._allowed(candidates)
        scores += self._totals[:, :, None]
        captions, _, count = ids.shape
        ids, scores, wanted = ids.reshape(captions, -1), scores.reshape(captions, -1), 2 * self._beams
        best = np.argsort(-scores, axis=1)[:, : wanted + 1]
        found = scores[self._each, best]
        if (found[:, 1:] == found[:, :-1]).any() or not self.steps.all():
            best = self._ranked(ids, scores, count)[:, :wanted]
            found = scores[self._each, best]
        best = best[:, :wanted]
        return best // count, ids[self._each, best], found[:, :wanted]

    def _ranked(self, ids: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
        """The order [C, K * M] of all candidates where some tie, as at first all beams do: then one stands for all.

        Sums of float32 log-probabilities do tie exactly. The reference leaves the order of ties to an unstable sort;
        here it is the higher beam and token first, so that a result never depends on how an engine lists candidates.
        """
        keys = np.empty((4, *ids.shape))
        keys[0], keys[1], keys[2] = ids, np.repeat(self._rows, count), scores
        keys[3] = (keys[1] == 0) | (self.steps > 0)[:, None]
        return np.lexsort(-keys)

    def _allowed(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """The candidates, the end of sentence and the unknown token [C, K, M + 2], with NEVER for what rules forbid."""
        special, ids = self._special, candidates.ids
        named = (ids == special.eos) | (ids == special.pad) | (ids == special.unk)
        ids = np.concatenate([ids, self._last_two], axis=2)
        unk = candidates.unk - self._unk_penalty
        scores = np.concatenate([candidates.logprobs, candidates.eos[..., None], unk[..., None]], axis=2)
        scores[:, :, :-2][named] = NEVER
        early, closed = self.steps < self._min_length, self.steps == self._max_length
        if early.any():
            scores[early, :, -2] = NEVER
        if closed.any():
            scores[closed, :, :-2] = scores[closed, :, -1:] = NEVER
        for (caption, row), blocked in self._blocked.items():
            scores[caption, row, (ids[caption, row, :, None] == blocked).any(-1)] = NEVER
        return ids, np.fmax(scores, NEVER, out=scores)  # what is not a number as well

    def _finish(self, caption: int, parent: int, score: np.float32) -> None:
        step = self.steps[caption]
        tokens = np.empty(step + 1, np.int32)
        tokens[:step], tokens[step] = self._past[0, caption, parent, 1 : step + 1], self._special.eos
        cumulative = np.zeros(step + 2, np.float32)
        cumulative[1:-1], cumulative[-1] = self._scores[caption, parent, :step], score
        normaliser = np.float32((step + 1) ** self._settings[caption].length_penalty)
        finished, wanted = self._finished[caption], self._settings[caption].num_captions
        finished.append(Hypothesis(tokens, cumulative[1:] - cumulative[:-1], float(score / normaliser)))
        if len(finished) >= wanted:
            self._to_beat[caption] = self.hypotheses(caption)[wanted - 1].score

    def _continue(self, parents: np.ndarray, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Takes every caption further, by tokens and scores [C, K] after beams [C, K]."""
        steps, shape = self.steps[:, None], self._past.shape
        chosen = (self._each * self._beams + parents).ravel()
        self._past = self._past.reshape(2, -1, shape[-1]).take(chosen, axis=1).reshape(shape)
        self._scores = self._scores.reshape(-1, shape[-1]).take(chosen, axis=0).reshape(shape[1:])
        self._past[0, self._each, self._rows, steps + 1] = tokens
        self._past[1, self._each, self._rows, steps + 1] = self._rows
        self._scores[self._each, self._rows, steps] = self._totals = scores
        self.steps += 1
        self._blocked = self._repeats()

    def _repeats(self) -> dict[tuple[int, int], np.ndarray]:
        """For captions' beams, the tokens that would repeat an n-gram (the start token counts as one)."""
        blocked = {}
        for size, captions in self._ngrams.items():
            windows = self.steps[captions, None, None] + 2 - size  # n-grams so far
            most = int(windows.max())
            if most < 1:
                continue
            # A token would repeat an n-gram if the n - 1 before it are the last n - 1.
            tokens = self._past[0] if len(captions) == len(self.steps) else self._past[0, captions]
            last = tokens[np.arange(len(captions))[:, None, None], self._rows[:, None], windows + np.arange(size - 1)]
            repeated = (np.arange(most) < windows) & np.ones((self._beams, 1), bool)
            for place in range(size - 1):
                repeated = repeated & (tokens[:, :, place : place + most] == last[:, :, place, None])
            for which, row in zip(*repeated.any(-1).nonzero(), strict=True):
                followers = tokens[which, row, size - 1 : size - 1 + most]
                blocked[captions[which], row] = followers[repeated[which, row]]
        return blocked


class BeamSearch:
    """The search of one caption alone."""

    def __init__(self, settings: GenerationConfig, special: SpecialTokens) -> None:
        self._searches = BeamSearches(settings.beam_size, special)
        self._searches.join([settings])

    @property
    def step(self) -> int:
        """The position of :attr:`tokens`."""
        return int(self._searches.steps[0])

    @property
    def tokens(self) -> np.ndarray:
        """The tokens INT64 [K] to feed."""
        return self._searches.tokens[0]

    @property
    def ancestors(self) -> np.ndarray:
        """INT64 [K, max_length + 1], see :attr:`BeamSearches.ancestors`."""
        return self._searches.ancestors[0, :, :-1]

    @property
    def candidates(self) -> int:
        """See :attr:`BeamSearches.candidates`."""
        return self._searches.candidates

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """What has finished, best first."""
        return self._searches.hypotheses(0)

    def advance(self, candidates: Candidates) -> bool:
        """Chooses the next tokens among candidates [K, M], and says whether the search has ended."""
        one = (values[None] for values in (candidates.ids, candidates.logprobs, candidates.eos, candidates.unk))
        return bool(self._searches.advance(Candidates(*one))[0])
