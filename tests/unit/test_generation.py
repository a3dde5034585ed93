"""Request parameters: taken as numbers or decimal strings within the contract's ranges, refused by name otherwise."""

import math

import pytest
from ofa_serving.contract import PARAMETERS, CaptionError, Code
from ofa_serving.generation import GenerationConfig

DEFAULTS = GenerationConfig(beam_size=5, num_captions=3, max_length=16, min_length=4)


def asked(defaults: GenerationConfig = DEFAULTS, **parameters) -> GenerationConfig:
    return GenerationConfig.from_request(parameters, defaults)


def refusal(**parameters) -> str:
    with pytest.raises(CaptionError) as error:
        asked(**parameters)
    assert error.value.code == Code.INVALID_PARAMETER
    return error.value.message


def test_without_parameters_the_defaults_hold():
    assert asked() == DEFAULTS


def test_the_defaults_are_modelscopes():
    assert GenerationConfig() == GenerationConfig(
        beam_size=5,
        num_captions=1,
        max_length=16,
        min_length=1,
        no_repeat_ngram_size=3,
        length_penalty=1.0,
        temperature=1.0,
        unk_penalty=0.0,
    )


@pytest.mark.parametrize("as_sent", [lambda value: value, str, float], ids=["number", "string", "float"])
def test_every_parameter_is_taken_as_a_number_or_a_decimal_string(as_sent):
    wanted = GenerationConfig(
        beam_size=8,
        num_captions=2,
        max_length=30,
        min_length=6,
        no_repeat_ngram_size=0,
        length_penalty=0.5,
        temperature=1.5,
        unk_penalty=2.25,
    )
    values = {name: as_sent(getattr(wanted, name)) for name in PARAMETERS}
    result = asked(**values)
    assert result == wanted
    assert {name: type(getattr(result, name)) for name in PARAMETERS} == {
        name: known.kind for name, known in PARAMETERS.items()
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_both_ends_of_a_range_are_taken_and_what_lies_beyond_is_not(name):
    known = PARAMETERS[name]
    step = 1 if known.kind is int else 0.001
    wide = GenerationConfig(beam_size=16, num_captions=1, max_length=128, min_length=0)
    assert getattr(asked(wide, **{name: known.high}), name) == known.high
    lowest = known.low + (step if known.above_low else 0)
    assert getattr(asked(wide, **{name: lowest}), name) == lowest
    for beyond in (known.high + step, lowest - step, -1, 10**6, 10**400, str(10**400)):
        message = refusal(**{name: beyond})
        assert message.startswith(f"{name} is ")
        assert message.endswith(f", {known}")


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        "nan",
        "inf",
        "1e1",
        "",
        " 1",
        "1 ",
        "0x1",
        "1_0",
        "१",
        "one",
        True,
        False,
        None,
        [1],
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused(name, value):
    assert refusal(**{name: value}).startswith(f"{name} is ")


@pytest.mark.parametrize("value", [2.5, "2.5", "2.01"])
def test_a_count_is_a_whole_number(value):
    assert refusal(beam_size=value) == f"beam_size is {value!r}; it must be a whole number, 1 to 16"


def test_an_unknown_name_is_refused_with_the_known_ones():
    message = refusal(beams=5)
    assert message.startswith("'beams' is no parameter; there are beam_size, num_captions,")
    assert message.endswith(", unk_penalty, priority_class and timeout")


def test_a_long_value_is_not_repeated_whole():
    assert len(refusal(beam_size="9" * 5000)) < 120
    assert len(refusal(**{"b" * 5000: 1})) < 250


def test_more_captions_than_beams():
    assert refusal(num_captions=6) == "num_captions is 6; it must be 1 to 5, the beam_size"
    assert refusal(num_captions=4, beam_size=3) == "num_captions is 4; it must be 1 to 3, the beam_size"
    assert asked(num_captions=6, beam_size=6).num_captions == 6


def test_a_minimum_length_over_the_maximum():
    assert refusal(min_length=17) == "min_length is 17; it must be 0 to 16, the max_length"
    assert asked(min_length=17, max_length=17).min_length == 17


def test_a_default_gives_way_to_what_the_request_asks_for():
    assert asked(beam_size=2).num_captions == 2
    assert asked(max_length=3).min_length == 3
