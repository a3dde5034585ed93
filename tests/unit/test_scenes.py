"""Scenes: what a picture shows determines its one caption, draws repeat, and held-out scenes stay held out."""

from itertools import product

import numpy as np
import pytest
from ofa_build.scenes.art import Art
from ofa_build.scenes.objects import OBJECTS
from ofa_build.scenes.render import IGNORED, cell_classes, render
from ofa_build.scenes.sampler import SceneSampler, is_hard
from ofa_build.scenes.scene import Background, Placement, Scene, describe_placements
from ofa_build.scenes.sources import HELD_OUT_STYLES, SOURCES, TRAINING_STYLES
from ofa_build.scenes.splits import Split, has_held_out_combination, is_held_out_count, is_held_out_pair
from ofa_build.scenes.vocabulary import write_vocabulary
from ofa_serving.tokenizer import Tokenizer

DRAWS = 400
MAX_TOKENS = 16
PLAIN = Background("plain", ("green",))
PATTERN = Background("noise", ("green", "white"))


def number_of(label: str) -> int:
    return next(index for index, item in enumerate(OBJECTS) if item.label == label)


def place(label: str, x: float, y: float, size: float = 0.25) -> Placement:
    return Placement(number_of(label), "flat", x, y, size)


def draws(split: Split) -> list[Scene]:
    sampler = SceneSampler(split)
    return [sampler(index) for index in range(DRAWS)]


@pytest.fixture(scope="module")
def art() -> Art:
    """One style in which every object is an opaque red square."""
    glyphs = np.zeros((len(OBJECTS), 160, 160, 4), dtype=np.uint8)
    glyphs[..., 0] = glyphs[..., 3] = 255
    return Art({"flat": glyphs})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(directory)
    return Tokenizer.load(directory, "en")


@pytest.mark.parametrize(
    ("placements", "caption"),
    [
        ([place("owl", 0.5, 0.5)], "an owl"),
        ([place("red apple", 0.2, 0.5), place("red apple", 0.7, 0.5)], "two red apples"),
        ([place("dog", 0.8, 0.5), place("cat", 0.2, 0.55)], "a cat to the left of a dog"),
        ([place("dog", 0.5, 0.8), place("cat", 0.45, 0.2)], "a cat above a dog"),
        ([place("house", 0.5, 0.5, 0.8), place("dog", 0.5, 0.7, 0.3)], "a dog in front of a house"),
        ([place("key", 0.5, 0.5), place("bell", 0.85, 0.5), place("bus", 0.15, 0.5)], "a key between a bus and a bell"),
        (
            [place("blue heart", 0.2, 0.3), place("blue heart", 0.2, 0.7), place("white heart", 0.75, 0.5)],
            "two blue hearts to the left of a white heart",
        ),
    ],
)
def test_the_geometry_determines_the_caption(placements, caption):
    for order in (placements, placements[::-1]):
        assert describe_placements(order) == caption


@pytest.mark.parametrize(
    "placements",
    [
        pytest.param([place("dog", 0.2, 0.2), place("cat", 0.8, 0.8)], id="diagonal"),
        pytest.param([place("dog", 0.45, 0.5), place("cat", 0.55, 0.5)], id="on top of each other, equally large"),
        pytest.param([place("dog", x, 0.5, 0.1) for x in (0.1, 0.3, 0.5, 0.7, 0.9)], id="five"),
        pytest.param(
            [place("dog", 0.2, 0.2), place("cat", 0.5, 0.8), place("key", 0.8, 0.2)], id="three, not in a row"
        ),
    ],
)
def test_an_unclear_layout_has_no_caption(placements):
    assert describe_placements(placements) is None
    with pytest.raises(ValueError, match="ambiguous"):
        Scene(tuple(placements), PLAIN)


def test_only_a_plain_background_is_named():
    assert Scene((place("dog", 0.5, 0.5),), PLAIN).caption == "a dog on a green background"
    assert Scene((place("dog", 0.5, 0.5),), Background("plain", ("orange",))).caption == "a dog on an orange background"
    assert Scene((place("dog", 0.5, 0.5),), PATTERN).caption == "a dog"


def test_equal_arguments_draw_equal_scenes():
    assert draws(Split.TRAIN) == draws(Split.TRAIN)
    assert SceneSampler(Split.TRAIN, seed=1)(0) != SceneSampler(Split.TRAIN, seed=0)(0)


def test_the_sampler_uses_the_whole_grammar():
    captions = " ".join(scene.caption for scene in draws(Split.TRAIN))
    for words in ("to the left of", "above", "in front of", "between", "two", "three", "four", "background"):
        assert words in captions


@pytest.mark.parametrize("split", Split)
def test_held_out_combinations_appear_in_their_split_only(split):
    for scene in draws(split):
        assert has_held_out_combination(scene.placements) == (split is Split.HELDOUT)


def test_every_object_keeps_plurals_and_partners_for_training():
    for item in OBJECTS:
        assert sum(is_held_out_count(item, count) for count in (2, 3, 4)) <= 1
        partners = [other for other in OBJECTS if other.noun != item.noun and not is_held_out_pair(item, other)]
        assert len(partners) > len(OBJECTS) / 2
    assert any(is_held_out_count(item, count) for item, count in product(OBJECTS, (2, 3, 4)))


def test_a_background_never_has_an_objects_colour():
    for scene in draws(Split.UNSEEN):
        assert not {place.item.tint for place in scene.placements} & set(scene.background.colours)


@pytest.mark.parametrize("split", Split)
def test_captions_fit_the_decoder_and_survive_beam_search(split, tokenizer):
    for scene in draws(split):
        tokens = [*tokenizer.encode(scene.caption), tokenizer.special.eos]
        assert tokenizer.caption(tokens) == scene.caption
        assert len(tokens) == len(scene.caption.split()) + 1 <= MAX_TOKENS
        trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
        assert len(trigrams) == len(set(trigrams)), "the n-gram block would forbid the right caption"


def test_pictures_repeat_and_take_the_size_asked_for(art):
    scene = Scene((place("dog", 0.5, 0.5),), PATTERN)
    first, _ = render(scene, art, 96, 64)
    second, _ = render(scene, art, 96, 64)
    assert first.size == (96, 64)
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_cells_tell_what_is_drawn_where(art):
    scene = Scene((place("dog", 0.25, 0.5, 0.5), place("cat", 0.8125, 0.5, 0.2)), PLAIN)
    _, masks = render(scene, art, 128, 128)
    classes, centres = cell_classes(scene, masks, 8)
    assert (classes[2:6, 0:4] == 1 + number_of("dog")).all()
    assert (classes[:2] == 0).all()
    assert classes[4, 6] in (IGNORED, 1 + number_of("cat"))
    assert centres.sum() == 2
    assert centres[4, 2] == centres[4, 6] == 1


@pytest.mark.parametrize("styles", [TRAINING_STYLES, *((style,) for style in SOURCES)], ids="+".join)
def test_no_style_is_asked_for_an_object_it_lacks(styles):
    sampler = SceneSampler(Split.UNSEEN, styles=styles)
    shown = [place for index in range(DRAWS) for place in sampler(index).placements]
    assert not any(place.item.label in SOURCES[place.style].lacks for place in shown)
    assert {place.style for place in shown} == set(styles)


def test_what_a_style_lacks_are_objects_of_others():
    labels = {item.label for item in OBJECTS}
    assert all(source.lacks < labels for source in SOURCES.values())


def test_every_style_is_trained_on_or_held_out():
    assert sorted([*TRAINING_STYLES, *HELD_OUT_STYLES]) == sorted(SOURCES)
    assert {place.style for scene in draws(Split.TRAIN) for place in scene.placements} == set(TRAINING_STYLES)


def test_training_may_ask_for_more_of_the_hard_scenes():
    natural, half, only = (
        sum(is_hard(SceneSampler(Split.TRAIN, hard_share=share)(index).placements) for index in range(DRAWS)) / DRAWS
        for share in (0.0, 0.5, 1.0)
    )
    assert natural < half - 0.2
    assert half < only == 1.0


@pytest.mark.parametrize(
    ("placements", "hard"),
    [
        ([place("owl", 0.5, 0.5)], False),
        ([place("owl", 0.2, 0.5), place("owl", 0.8, 0.5)], False),
        ([place("dog", 0.2, 0.5), place("cat", 0.8, 0.5)], False),
        ([place("key", 0.5, 0.5), place("bell", 0.85, 0.5), place("bus", 0.15, 0.5)], False),
        ([place("dog", 0.2, 0.5), place("cat", 0.8, 0.3), place("cat", 0.8, 0.7)], True),
        ([place("house", 0.5, 0.5, 0.8), place("dog", 0.5, 0.7, 0.3)], True),
    ],
)
def test_two_groups_are_hard_if_one_is_counted_or_partly_covered(placements, hard):
    assert is_hard(placements) == hard


def test_only_training_outlines_objects():
    for split in Split:
        outlined = [place.outlined for scene in draws(split) for place in scene.placements]
        assert any(outlined) == (split is Split.TRAIN)
        assert not all(outlined)


def test_an_outline_is_dark_and_around_the_drawing():
    glyphs = np.zeros((len(OBJECTS), 160, 160, 4), dtype=np.uint8)
    glyphs[:, 40:120, 40:120] = 255, 0, 0, 255
    art = Art({"flat": glyphs})
    plain, outlined = (np.asarray(art.glyph("flat", 0, 160, line).convert("RGBA")) for line in (False, True))
    assert (plain[80, 38] == 0).all()
    assert outlined[80, 38, 3] == 255
    assert outlined[80, 38, :3].max() < 40
    assert tuple(outlined[80, 80]) == (255, 0, 0, 255)
