"""The search's rules, one by one, on a vocabulary small enough to follow by hand."""

from dataclasses import replace

import numpy as np
import pytest
from ofa_serving.beam_search import BeamSearch, BeamSearches, Candidates, SpecialTokens
from ofa_serving.generation import GenerationConfig

BOS, PAD, EOS, UNK, A, B, C, D = range(8)


def candidates(*rows):
    """Candidates of every beam from its log-probabilities by token; what is not named is improbable."""
    table = np.full((len(rows), 8), -50.0, np.float32)
    for row, named in zip(table, rows, strict=True):
        for token, logprob in named.items():
            row[token] = logprob
    ids = np.argsort(-table, axis=1, kind="stable")
    return Candidates(ids, np.take_along_axis(table, ids, 1), table[:, EOS], table[:, UNK])


def search(**settings):
    defaults = {"beam_size": 2, "max_length": 4, "min_length": 0, "no_repeat_ngram_size": 0}
    settings = {**defaults, **settings}
    return BeamSearch(GenerationConfig(**{"num_captions": settings["beam_size"], **settings}), SpecialTokens())


def test_the_first_step_looks_at_one_beam_only():
    one = search()
    one.advance(candidates({A: -1, B: -2}, {C: 0, D: -0.5}))
    assert one.tokens.tolist() == [A, B]


def test_beams_compete_by_their_sums():
    one = search()
    one.advance(candidates({A: -1, B: -2}, {}))
    one.advance(candidates({C: -5, D: -6}, {C: -1, D: -1.5}))
    assert one.tokens.tolist() == [C, D]
    assert one.ancestors[:, :3].tolist() == [[0, 1, 0], [0, 1, 1]]


def test_ancestors_name_the_slot_of_every_position():
    one = search()
    one.advance(candidates({A: -1, B: -2}, {}))
    one.advance(candidates({A: -9}, {A: -1, B: -1.5}))
    one.advance(candidates({A: -1}, {B: -3}))
    # Both beams go back to beam 0 or 1 of the step before, and those to beam 1 of the one before that.
    assert one.ancestors[0, :4].tolist() == [0, 1, 0, 0]
    assert (one.ancestors[:, 4] == -1).all()


def test_an_end_counts_only_among_the_first_beams():
    one = search()
    assert not one.advance(candidates({A: -1, B: -2, EOS: -3}, {}))
    assert one.hypotheses == []
    one.advance(candidates({EOS: -0.5, A: -9}, {A: -9}))
    assert [h.tokens.tolist() for h in one.hypotheses] == [[A, EOS]]


def test_the_search_ends_when_it_has_as_many_hypotheses_as_beams():
    one = search(beam_size=1)
    assert one.advance(candidates({EOS: -1, A: -2}))
    assert one.hypotheses[0].tokens.tolist() == [EOS]


def test_at_the_maximum_length_only_the_end_is_left():
    one = search(max_length=1)
    one.advance(candidates({A: -1, B: -2}, {}))
    assert one.advance(candidates({EOS: -30, C: 0, UNK: 0}, {EOS: -40, C: 0, UNK: -1}))
    assert [h.tokens.tolist() for h in one.hypotheses] == [[A, EOS], [B, EOS]]


def test_no_end_before_the_minimum_length():
    one = search(beam_size=1, min_length=1)
    assert not one.advance(candidates({EOS: 0, A: -9}))
    assert one.tokens.tolist() == [A]


def test_scores_are_sums_over_the_penalised_length():
    one = search(beam_size=1, length_penalty=2.0)
    one.advance(candidates({A: -1}))
    one.advance(candidates({EOS: -2}))
    (best,) = one.hypotheses
    assert best.score == pytest.approx(-3 / 2**2)
    assert best.logprobs.tolist() == [-1, -2]


def test_hypotheses_come_best_first():
    one = search(length_penalty=0.0)
    one.advance(candidates({EOS: -3, A: -1}, {}))
    one.advance(candidates({EOS: -0.5, A: -9}, {EOS: -9}))
    assert [h.tokens.tolist() for h in one.hypotheses] == [[A, EOS], [EOS]]


def test_an_n_gram_is_not_repeated():
    one = search(beam_size=1, no_repeat_ngram_size=2)
    for token in (A, B, A):
        one.advance(candidates({token: -1}))
    one.advance(candidates({B: -1, C: -2}))
    assert one.hypotheses == []
    assert one.tokens.tolist() == [C]


def test_the_start_counts_as_part_of_an_n_gram():
    one = search(beam_size=1, no_repeat_ngram_size=1)
    one.advance(candidates({BOS: -1, A: -2}))
    assert one.tokens.tolist() == [A]


def test_pad_is_never_chosen_and_unk_pays_its_penalty():
    one = search(beam_size=1, unk_penalty=2.0)
    one.advance(candidates({PAD: 0, UNK: -1, A: -2}))
    assert one.tokens.tolist() == [A]


def test_not_a_number_is_never_chosen():
    one = search(beam_size=1)
    one.advance(candidates({A: np.nan, B: -4}))
    assert one.tokens.tolist() == [B]


def test_an_end_that_is_forbidden_is_none_even_if_all_else_is():
    one, nothing = search(min_length=1), np.full((2, 2), -np.inf, np.float32)
    assert not one.advance(Candidates(np.array([[PAD, EOS]] * 2), nothing, nothing[0], nothing[0]))
    assert one.hypotheses == []


def test_ties_go_to_the_higher_token_however_they_are_listed():
    tied = candidates({A: -1, B: -1}, {})
    swapped = Candidates(tied.ids[:, [1, 0, *range(2, 8)]], tied.logprobs, tied.eos, tied.unk)
    for listing in (tied, swapped):
        one = search()
        one.advance(listing)
        assert one.tokens.tolist() == [B, A]


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1], [2, 1, 0]])
@pytest.mark.parametrize(
    ("tied", "beams", "tokens"),
    [
        ([{C: -1}, {C: -1}], [1, 0], [C, C]),
        ([{A: -1, B: -1, C: -1}, {}], [0, 0], [C, B]),  # more than there are beams
        ([{A: -1, EOS: -2}, {EOS: -2.5, B: -3, C: -3}], [0, 1], [A, C]),  # the last place that is looked at
    ],
)
def test_later_ties_go_to_the_higher_beam_and_token_however_they_are_listed(order, tied, beams, tokens):
    one, order = search(), [*order, *range(3, 8)]
    one.advance(candidates({A: -1, B: -1}, {}))
    listed = candidates(*tied)
    one.advance(Candidates(listed.ids[:, order], listed.logprobs[:, order], listed.eos, listed.unk))
    assert one.ancestors[:, 1].tolist() == beams
    assert one.tokens.tolist() == tokens


def test_as_many_candidates_as_the_rules_may_remove_and_two_a_beam_more():
    one = search(beam_size=1, no_repeat_ngram_size=2, max_length=8)
    assert one.candidates == 2 + 3
    for token in (A, B, A, C, A):
        one.advance(candidates({token: -1}))
    assert one.candidates == 2 + 2 + 3  # B and C have followed A


MIXED = [
    {},
    {"max_length": 9},
    {"max_length": 12, "min_length": 6},
    {"max_length": 7, "no_repeat_ngram_size": 1},
    {"max_length": 10, "no_repeat_ngram_size": 2},
    {"max_length": 10, "no_repeat_ngram_size": 3, "length_penalty": 2.0},
    {"max_length": 8, "unk_penalty": 3.0, "no_repeat_ngram_size": 2},
    {"max_length": 11, "min_length": 11, "no_repeat_ngram_size": 8},
]


@pytest.mark.parametrize("decimals", [6, 0], ids=["apart", "tied"])
def test_captions_searched_together_find_what_each_finds_alone(decimals):
    """They join at different times, and the gaps of those that have ended are filled from behind."""
    settings = [GenerationConfig(**{"beam_size": 3, "max_length": 5, **mixed}) for mixed in MIXED]
    said = [np.random.default_rng(number) for number in range(len(settings))]
    table = [[random.normal(-3, 2, (3, 8)).round(decimals).astype(np.float32) for _ in range(13)] for random in said]

    def offered(number, step):
        scores = table[number][step]
        ids = np.argsort(-scores, axis=1, kind="stable")
        return Candidates(ids, np.take_along_axis(scores, ids, 1), scores[:, EOS], scores[:, UNK])

    alone = []
    for number, setting in enumerate(settings):
        one = BeamSearch(setting, SpecialTokens())
        while not one.advance(offered(number, one.step)):
            pass
        alone.append(one.hypotheses)

    searches, running, waiting, together = BeamSearches(3, SpecialTokens()), [], list(range(len(settings))), {}
    while running or waiting:
        joining, waiting = waiting[:2], waiting[2:]
        if joining:
            searches.join([settings[number] for number in joining])
            running += joining
        parts = [offered(number, step) for number, step in zip(running, searches.steps.tolist(), strict=True)]
        names = ("ids", "logprobs", "eos", "unk")
        ended = searches.advance(Candidates(*(np.stack([getattr(part, name) for part in parts]) for name in names)))
        together |= {running[index]: searches.hypotheses(index) for index in np.flatnonzero(ended)}
        left = np.flatnonzero(~ended).tolist()[::-1]
        searches.keep(left)
        running = [running[index] for index in left]

    for number, wanted in enumerate(alone):
        assert wanted, "a search that finds nothing shows nothing"
        assert [found.tokens.tolist() for found in together[number]] == [found.tokens.tolist() for found in wanted]
        assert [found.score for found in together[number]] == [found.score for found in wanted]


def found_by(settings, table):
    """What a search finds alone, whose every beam is offered the same at one position, and its steps."""
    one, ended = BeamSearch(settings, SpecialTokens()), False
    while not ended:
        step = one.step
        ended = one.advance(candidates(*[dict(enumerate(table[step]))] * settings.beam_size))
    return one.hypotheses, step + 1


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("wanted", [1, 2])
def test_the_search_ends_early_only_where_the_rest_cannot_matter(length_penalty, wanted):
    saved = 0
    for seed in range(60):
        logits = np.random.default_rng(seed).normal(0, 4, (13, 8))
        logits[:, [BOS, PAD]] = -20
        table = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        every = GenerationConfig(beam_size=4, num_captions=4, max_length=12, length_penalty=length_penalty)
        whole, steps = found_by(every, table)
        best, fewer = found_by(replace(every, num_captions=wanted), table)
        assert [found.tokens.tolist() for found in best[:wanted]] == [one.tokens.tolist() for one in whole[:wanted]]
        assert [found.score for found in best[:wanted]] == [one.score for one in whole[:wanted]]
        saved += steps - fewer
    assert saved > 0 or wanted * length_penalty > 1  # where length gains much, hardly anything is settled early


def test_it_goes_on_while_a_longer_caption_may_be_better():
    one = search(num_captions=1, max_length=3)
    assert not one.advance(candidates({EOS: -2, A: -1, B: -1.5}, {}))
    assert not one.advance(candidates({EOS: -1, A: -1.5}, {A: -9, EOS: -9}))  # -2 / 2, and -2.5 / 4 at best
    assert one.hypotheses[0].score == -1
    assert one.advance(candidates({A: -2, B: -3}, {A: -2}))  # -4.5 / 4 at best
