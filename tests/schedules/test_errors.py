from __future__ import annotations

import math
import pickle
from fractions import Fraction
from typing import Any

import pytest

from lightning_lrsched.schedules.errors import (
    MAX_COUNT,
    ParameterTypeError,
    choice,
    count,
    did_you_mean,
    number,
    short,
    switch,
)


@pytest.mark.parametrize("value", [1, 1.0, 2**53, Fraction(1, 2), -3.5])
def test_a_number_comes_back_as_a_float(value: Any) -> None:
    result = number("key", value)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize("value", [True, "1", None, [1.0], {}, 1j])
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^key must be a finite number, got .*\(\w+\)"):
        number("key", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_is_finite(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^key must be a finite number, got"):
        number("key", value)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ({"at_least": 0}, 0, -1e-300),
        ({"above": 0}, 1e-300, 0),
        ({"below": 1}, 0.999, 1),
        ({"at_most": 1}, 1, 1.001),
    ],
)
def test_the_limits_of_a_number(limits: dict[str, float], inside: float, outside: float) -> None:
    assert number("key", inside, **limits) == inside
    with pytest.raises(ValueError, match=rf"^key must be a finite number and .* {next(iter(limits.values()))}, got"):
        number("key", outside, **limits)


@pytest.mark.parametrize("value", [3, 3.0, Fraction(3)])
def test_a_count_comes_back_as_an_int(value: Any) -> None:
    result = count("key", value)
    assert type(result) is int
    assert result == 3


@pytest.mark.parametrize("value", [-1, 0.5, math.nan, math.inf, MAX_COUNT + 1, 10**400, 1e300])
def test_a_count_is_a_whole_number_of_a_sensible_size(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^key must be a whole number, at least 0"):
        count("key", value)


@pytest.mark.parametrize("value", [True, "3", None, [3]])
def test_what_is_no_count_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^key must be a whole number, at least 0, got"):
        count("key", value)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_switch_is_true_or_false_and_nothing_else(value: Any) -> None:
    assert switch("key", True) is True
    with pytest.raises(TypeError, match=r"^key must be true or false, got"):
        switch("key", value)


@pytest.mark.parametrize("value", ["Linear", "lin", None, 1, []])
def test_a_choice_is_one_of_the_allowed_words(value: Any) -> None:
    assert choice("key", "linear", ["log", "linear"]) == "linear"
    with pytest.raises(ValueError, match=r"^key must be one of 'log', 'linear', got"):
        choice("key", value, ["log", "linear"])


@pytest.mark.parametrize(
    ("word", "hint"),
    [("Linear", " (did you mean 'linear'?)"), ("liner", " (did you mean 'linear'?)"), ("xyz", ""), (None, "")],
)
def test_the_nearest_spelling_is_offered(word: object, hint: str) -> None:
    assert did_you_mean(word, ["log", "linear"]) == hint


@pytest.mark.parametrize(("length", "shown"), [(78, repr("x" * 78)), (79, "'" + "x" * 76 + "...")])
def test_of_a_long_value_80_characters_are_shown(length: int, shown: str) -> None:
    assert len(shown) == 80
    assert short("x" * length) == shown


def test_an_error_survives_the_way_between_processes() -> None:
    error = ParameterTypeError("steps", ": no").under("params.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ParameterTypeError, "params.steps: no")
