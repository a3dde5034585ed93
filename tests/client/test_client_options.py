"""Search options travel as decimal strings; what cannot be one is refused before anything is sent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ofa_client import InvalidParameterError
from ofa_client.options import request_parameters


def test_integers_and_decimals_become_decimal_strings():
    assert request_parameters({"beam_size": 5, "length_penalty": 0.98, "temperature": 2}) == {
        "beam_size": "5",
        "length_penalty": "0.98",
        "temperature": "2.0",
    }


def test_a_small_number_has_no_exponent():
    assert request_parameters({"temperature": 1e-7}) == {"temperature": "0.0000001"}


def test_numpy_numbers_are_numbers():
    assert request_parameters({"beam_size": np.int64(4), "unk_penalty": np.float32(0.5)}) == {
        "beam_size": "4",
        "unk_penalty": "0.5",
    }


def test_none_is_left_to_the_checkpoint():
    assert request_parameters({"beam_size": None}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("beam_size", 2.5), ("beam_size", "5"), ("beam_size", True), ("temperature", "1"), ("temperature", [1])],
)
def test_another_kind_of_value_is_refused_by_name(name, value):
    with pytest.raises(InvalidParameterError, match=f"{name} must be a"):
        request_parameters({name: value})


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidParameterError, match="beams is not one of beam_size, num_captions"):
        request_parameters({"beams": 5})


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**30])
def test_ranges_are_the_servers_to_judge(value):
    assert "temperature" in request_parameters({"temperature": value})


def test_the_class_of_a_request_is_one_of_two_words():
    assert request_parameters({"priority_class": "batch"}) == {"priority_class": "batch"}
    with pytest.raises(InvalidParameterError, match="must be interactive or batch, not 'urgent'"):
        request_parameters({"priority_class": "urgent"})
