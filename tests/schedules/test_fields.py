"""How the parameters of a schedule are declared, and what a user's values become."""

from __future__ import annotations

from collections import UserList
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest

from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.schedules.errors import ParameterValueError
from lightning_lrsched.schedules.fields import (
    OWN_LR,
    REQUIRED,
    AnyValue,
    Choice,
    Count,
    Field,
    Fields,
    FromRangeTest,
    ListOf,
    Number,
    OfOther,
    Own,
    Several,
    Steps,
    Switch,
    argument_help,
    declared,
    with_keys,
)
from lightning_lrsched.schedules.length import Epochs, Fraction

RULES: dict[str, Any] = {
    "number": Number(at_least=0, below=2),
    "lr": Number(at_least=0, auto=OWN_LR, finding="high", ratio=True, optional=True, none_is_auto=True, per_group=True),
    "count": Count(at_least=1),
    "steps": Steps(at_least=1, auto=0.25),
    "plain steps": Steps(),
    "switch": Switch(),
    "choice": Choice(("flat", "steep")),
    "list": Several(Steps()),
    "any": AnyValue(),
}


@declared
class Part(Fields):
    """One part.

    Args:
        steps: how long [optimizer steps].
    """

    steps: Annotated[int, Steps()]


@declared
class Example(Fields):
    """One line.

    Args:
        peak: the ``peak``; a line
            that goes on.
        length: how long [optimizer steps].
        shape: ``"flat"`` or ``"steep"``.

    Raises:
        ValueError: never.
    """

    type: ClassVar[str] = "Example"

    peak: Annotated[float, Number(at_least=0, auto=OWN_LR, finding="suggestion", per_group=True)]
    length: Annotated[int, Steps(at_least=1, auto=0.25)] = 10
    shape: Literal["flat", "steep"] = "flat"
    enabled: bool = True
    parts: Annotated[tuple[Part, ...], ListOf(Part)] = ()


def test_everything_is_read_from_the_annotations_and_the_docstring() -> None:
    assert list(Example.fields.values()) == [
        Field("peak", Example.fields["peak"].rule, REQUIRED, "the peak; a line that goes on."),
        Field("length", Steps(1, 0.25), 10, "how long [optimizer steps]."),
        Field("shape", Choice(("flat", "steep")), "flat", '"flat" or "steep".'),
        Field("enabled", Switch(), True, ""),
        Field("parts", ListOf(Part), (), ""),
    ]
    assert [key for key, _ in with_keys(Example.fields)][-2:] == ["parts", "parts[].steps"]
    assert argument_help(int) == {}


def test_a_parameter_without_a_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="peak: annotate it with a rule"):

        @declared
        class Undeclared(Fields):
            peak: float


def test_every_parameter_of_every_schedule_is_described() -> None:
    for schedule in SCHEDULES.values():
        for key, field in with_keys(schedule.fields):
            assert len(field.help) > 15, key


def test_the_description_has_the_words_and_the_default() -> None:
    peak, length = Example.fields["peak"].describe(), Example.fields["length"].describe()
    assert peak == (
        'the peak; a line that goes on. "auto": each param group\'s own lr. "lr_range_test": what a range test'
        " suggests. (default: required)"
    )
    assert length == 'how long [optimizer steps]. "auto": 0.25 of the run. (default: 10)'
    assert [str(word) for word in (Own(0.0), Own(0.1), OfOther(0.1, "peak"))] == [
        *("0", "0.1 of each param group's own lr", "0.1 of peak")
    ]


@pytest.mark.parametrize(
    ("rule", "value", "parsed"),
    [
        ("number", 1, 1.0),
        ("number", "1e-5", 1e-5),
        ("number", np.float32(0.5), 0.5),
        ("lr", "auto", Own(1.0)),
        ("lr", " AUTO ", Own(1.0)),
        ("lr", None, Own(1.0)),
        ("lr", "lr_range_test", FromRangeTest("high")),
        ("lr", {"ratio": "0.1"}, Own(0.1)),
        ("lr", [1, "2"], (1.0, 2.0)),
        ("lr", UserList([1, 2]), (1.0, 2.0)),
        ("lr", np.array([1.0, 2.0]), (1.0, 2.0)),
        ("count", "1e2", 100),
        ("count", 100.0, 100),
        ("steps", "1e2", 100),
        ("steps", "auto", Fraction(0.25, "auto")),
        ("steps", "2ep", Epochs(2.0, "2ep")),
        ("steps", "0.5", Fraction(0.5, "0.5")),
        ("steps", "100%", Fraction(1.0, "100%")),
        ("switch", np.False_, False),
        ("choice", "flat", "flat"),
        ("list", [1, "2ep", 0.5], (1, Epochs(2.0, "2ep"), Fraction(0.5, 0.5))),
        ("any", ["1", "x"], (1, "x")),
    ],
)
def test_what_a_value_becomes(rule: str, value: Any, parsed: Any) -> None:
    assert RULES[rule].parse("key", value) == parsed
    assert type(RULES[rule].parse("key", value)) is type(parsed)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("number", "fast", r"key must be a finite number and at least 0 and less than 2, got 'fast' \(str\)"),
        ("number", 2, r"key must be a finite number and at least 0 and less than 2, got 2$"),
        ("number", float("nan"), "key must be a finite number"),
        ("number", True, r"key must be a finite number .*got True \(bool\)"),
        ("number", "auto", 'key: "auto" has no meaning here'),
        ("number", None, "key must be a finite number"),
        ("number", {}, "key must be a single value or a list of numbers, got a mapping"),
        ("number", [1], r"key must be a finite number .* \(list\)"),
        pytest.param(
            "number", 10**5000, "key must be a finite number .* got a number with thousands of digits", id="huge"
        ),
        ("lr", [], "key must be one number or a list with one for each param group"),
        ("lr", [1, -2], r"key\[1\] must be .* at least 0"),
        ("lr", [[1]], r"key\[0\] must be a finite number"),
        ("lr", ["auto"], r'key\[0\]: "auto" has no meaning here'),
        ("lr", {"ratoi": 1}, r'key must be a number or {"ratio": <number>}'),
        ("lr", {"ratio": "x"}, r"key\.ratio must be a finite number"),
        ("count", 0, "key must be a whole number, at least 1, got 0"),
        ("count", 2**54, ".*at most 9007199254740992"),
        ("steps", 2.5, r'key must be a whole number, at least 1, got 2.5; a length may also be .*, or "auto"'),
        ("steps", [1, 2], r"key must be a whole number"),
        ("steps", 1.0, 'key must not be 1.0: write 1 for one step, or "100%" for the whole run'),
        ("steps", "200%", "key must be a fraction above 0% and at most 100%, got '200%'"),
        ("steps", "9" * 201, "key must be a whole number"),
        ("plain steps", "auto", 'key: "auto" has no meaning here'),
        ("switch", "false", r"key must be true or false, got 'false' \(str\)"),
        ("choice", "stepe", r"key must be one of 'flat', 'steep', got 'stepe' \(did you mean 'steep'\?\)"),
        ("list", 3, "key must be a list, got 3"),
        ("any", "lr_range_test", 'key: "lr_range_test" has no meaning here'),
    ],
)
def test_what_is_refused(rule: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as error:
        RULES[rule].parse("key", value)
    assert len(str(error.value)) < 400


def test_a_list_of_mappings_is_read_by_the_same_rules() -> None:
    example = Example.parse({"peak": "auto", "parts": [{"steps": "2ep"}, {"steps": 3}]})
    assert [path for path, _, _ in example.leaves()] == [
        *["peak", "length", "shape", "enabled", "parts[0].steps", "parts[1].steps"]
    ]
    changed = example.with_leaves({"parts[0].steps": 7, "peak": (1.0, 2.0)})
    assert changed.params() == {
        "peak": [1.0, 2.0], "length": 10, "shape": "flat", "enabled": True, "parts": [{"steps": 7}, {"steps": 3}],
    }  # fmt: skip
    assert example.given_params() == {"peak": "auto", "parts": [{"steps": "2ep"}, {"steps": 3}]}
    with pytest.raises(TypeError, match=r"^parts must be a list with a mapping for each part, got 3"):
        Example.parse({"peak": 1, "parts": 3})
    with pytest.raises(ParameterValueError, match=r"^parts\[0\]\.stesp: .*did you mean 'steps'"):
        Example.parse({"peak": 1, "parts": [{"stesp": 3}]})


def test_an_error_carries_its_key() -> None:
    with pytest.raises(ParameterValueError) as error:
        Example.parse({"peak": 1, "length": 0})
    moved = error.value.under("scheduler.params.")
    assert (moved.key, isinstance(moved, ValueError)) == ("scheduler.params.length", True)
    assert str(moved).startswith("scheduler.params.length must be a whole number, at least 1, got 0")
