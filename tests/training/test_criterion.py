"""The criterion is OFA's published one, and the numbers of a recipe mean what they say."""

import math

import pytest
import torch
from ofa_build.training.criterion import counted_tokens, token_losses
from ofa_build.training.recipe import CROSS_ENTROPY, DISTILLATION, SELF_CRITICAL, Recipe, RecipeError

LOGITS = torch.log(torch.tensor([[0.5, 0.1, 0.2, 0.2], [0.1, 0.1, 0.1, 0.7]]))
TARGETS = torch.tensor([0, 2])
NLL = [math.log(2), math.log(10)]


def test_without_smoothing_it_is_the_negative_log_likelihood():
    losses = token_losses(LOGITS, TARGETS)
    assert losses.tokens == 2
    assert losses.loss.item() == pytest.approx(sum(NLL), rel=1e-5)
    assert losses.nll.item() == pytest.approx(sum(NLL), rel=1e-5)


def test_smoothing_goes_in_equal_parts_to_the_other_tokens():
    # 0.9 to the target and 0.1 / 3 to each of the three others
    first = 0.9 * math.log(2) - 0.1 / 3 * (math.log(0.1) + 2 * math.log(0.2))
    second = 0.9 * math.log(10) - 0.1 / 3 * (2 * math.log(0.1) + math.log(0.7))
    losses = token_losses(LOGITS, TARGETS, label_smoothing=0.1)
    assert losses.loss.item() == pytest.approx(first + second, rel=1e-5)
    assert losses.nll.item() == pytest.approx(sum(NLL), rel=1e-5)


def test_the_worst_tokens_are_dropped():
    losses = token_losses(LOGITS, TARGETS, drop_worst=0.5)
    assert losses.tokens == counted_tokens(len(TARGETS), 0.5) == 1
    assert losses.loss.item() == pytest.approx(NLL[0], rel=1e-5)


def test_the_rate_rises_over_the_warm_up_and_falls_along_the_polynomial():
    recipe = Recipe(learning_rate=1.0, end_learning_rate=0.1, warm_up=0.2)
    rates = [recipe.learning_rate_at(update, 10) for update in range(11)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[10] == pytest.approx(0.1)
    squared = Recipe(learning_rate=1.0, warm_up=0.0, power=2.0)
    assert squared.learning_rate_at(5, 10) == pytest.approx(0.25)


def test_the_published_recipes():
    assert (CROSS_ENTROPY.learning_rate, CROSS_ENTROPY.label_smoothing, CROSS_ENTROPY.drop_worst) == (1e-5, 0.1, 0.2)
    assert CROSS_ENTROPY.drop_worst_after == 6000
    assert CROSS_ENTROPY.freeze == ("embeddings",)
    assert (SELF_CRITICAL.dropout, SELF_CRITICAL.drop_path, SELF_CRITICAL.learning_rate) == (0, 0, 1e-5)
    assert (DISTILLATION.learning_rate, DISTILLATION.warm_up, DISTILLATION.epochs) == (2e-5, 0.01, 5)


REFUSED = {
    "learning_rate": -1.0,
    "batch_size": 0,
    "dropout": 1.0,
    "precision": "int8",
    "freeze": ("head",),
    "epochs": 0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_make_no_sense_are_refused_by_name(name):
    with pytest.raises(RecipeError, match=f"{name} is "):
        Recipe(**{name: REFUSED[name]})
    with pytest.raises(RecipeError, match="learning_rat is no field"):
        Recipe().with_options(learning_rat=1)
