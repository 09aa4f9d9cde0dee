"""How the parameters of a schedule are declared and read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from lightning_lrsched.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError
from lightning_lrsched.schedulers.parameters import REQUIRED, Parameter, parameters_of
from lightning_lrsched.schedulers.rules import OWN_LR, AutoLr, Choice, Count, Number, Steps, Switch


class Example:
    """One line.

    Args:
        optimizer: not a parameter.
        peak: the ``peak``; a line
            that goes on.
        length: how long [optimizer steps].
        shape: ``"flat"`` or ``"steep"``.

    Raises:
        ValueError: never.
    """

    def __init__(
        self,
        optimizer: object,
        peak: Annotated[float | list[float] | None, Number(at_least=0, auto=OWN_LR)],
        length: Annotated[int, Steps(at_least=1, auto=0.25)] = 10,
        shape: Literal["flat", "steep"] = "flat",
        enabled: bool = True,
        last_batch_iteration: int = -1,
    ) -> None:
        pass


PEAK, LENGTH = (parameters_of(Example)[name] for name in ("peak", "length"))


def test_everything_is_read_from_the_signature_and_the_docstring() -> None:
    assert list(parameters_of(Example).values()) == [
        Parameter("peak", Number(at_least=0, auto=OWN_LR), REQUIRED, True, True, "the peak; a line that goes on."),
        Parameter("length", Steps(1, 0.25), 10, False, False, "how long [optimizer steps]."),
        Parameter("shape", Choice(("flat", "steep")), "flat", False, False, '"flat" or "steep".'),
        Parameter("enabled", Switch(), True, False, False, ""),
    ]


def test_a_parameter_without_a_rule_is_refused() -> None:
    class Undeclared:
        def __init__(self, optimizer: object, peak: float) -> None:
            pass

    with pytest.raises(TypeError, match="peak: annotate it with a rule"):
        parameters_of(Undeclared)


def test_every_parameter_of_every_schedule_is_described() -> None:
    for schedule in SCHEDULERS.values():
        for parameter in schedule.parameters().values():
            assert len(parameter.help) > 15, parameter.name


def test_the_description_has_auto_and_default() -> None:
    assert PEAK.describe() == 'the peak; a line that goes on. "auto": each param group\'s own lr. (default: required)'
    assert LENGTH.describe() == 'how long [optimizer steps]. "auto": 0.25 of the run. (default: 10)'
    assert str(AutoLr(0.0)) == "0"
    assert str(AutoLr(0.1, of="peak")) == "0.1 of peak"


def test_a_list_is_checked_item_by_item() -> None:
    assert PEAK.check((1, 2)) == [1.0, 2.0]
    assert PEAK.check(None) is None
    with pytest.raises(ValueError, match=r"^peak\[1\] must be .* at least 0"):
        PEAK.check([1, -2])
    with pytest.raises(TypeError, match=r"^peak\[0\] must be"):
        PEAK.check([[1]])
    with pytest.raises(ValueError, match=r"^peak must be one number or a list with one for each param group"):
        PEAK.check([])
    with pytest.raises(TypeError, match=r"^length must be"):
        LENGTH.check([1, 2])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("1e2", 100),
        ("100", 100),
        (100.0, 100),
        ("auto", "auto"),
        ("2ep", "2ep"),
        (0.5, 0.5),
        ("0.5", "0.5"),
        (2.5, 2.5),
    ],
)
def test_lengths_as_files_spell_them(value: Any, read: Any) -> None:
    assert LENGTH.read(value) == read
    assert type(LENGTH.read(value)) is type(read)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({}, ParameterTypeError, "length must be a single value or a list of numbers, got a mapping"),
        ("9" * 201, ParameterValueError, "length must be a number, got a text of 201 characters"),
        (10**301, ParameterValueError, "length must be a number of reasonable size, got one with more than 300 digits"),
        ("10%", ParameterValueError, "length must not be a percentage, got '10%': write 0.1"),
        (1.0, ParameterValueError, "length must not be 1.0: write 1 for one step, or a fraction of the run below 1"),
    ],
)
def test_what_no_file_may_hold(value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        LENGTH.read(value)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("parameter", "value", "needed"),
    [(LENGTH, "auto", "run"), (LENGTH, "2ep", "run"), (LENGTH, 0.5, "run"), (LENGTH, 5, None),
     (PEAK, "auto", "optimizer"), (PEAK, 0.5, None),
     (Parameter("n", Count()), "auto", None), (Parameter("n", Steps()), "auto", None)],
)  # fmt: skip
def test_what_a_value_waits_for(parameter: Parameter, value: Any, needed: str | None) -> None:
    assert parameter.waits_for(value) == needed


def test_lengths_are_resolved() -> None:
    run = RunLength(total_steps=1000, steps_per_epoch=100)
    assert [LENGTH.resolve(value, run) for value in ("auto", 0.1, "2ep", 7)] == [250, 100, 200, 7]
    assert PEAK.resolve("auto", run) == "auto"
    with pytest.raises(ValueError, match=r"^length='auto' needs to know how long the run is"):
        LENGTH.resolve("auto", RunLength())
    assert LENGTH.resolve_after(0.0, "auto", RunLength(), leave_unknown=True) == ("auto", 0.0)


def test_an_error_carries_its_key() -> None:
    with pytest.raises(ParameterValueError) as error:
        LENGTH.check(0)
    moved = error.value.under("scheduler.params.")
    assert (moved.key, str(moved)) == (
        "scheduler.params.length",
        "scheduler.params.length must be a whole number, at least 1, got 0",
    )
    assert isinstance(moved, ValueError)
