"""Lengths: a number of steps, samples or tokens, or a fraction of the run or epochs that a Horizon turns into one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lightning_lrsched.schedules.errors import (
    MAX_COUNT,
    MAX_TEXT,
    ParameterValueError,
    count,
    did_you_mean,
    short,
    to_number,
)

Unit = Literal["step", "sample", "token"]
"""What the position and all lengths of a schedule count; a step is an optimizer step."""

UNITS: tuple[Unit, ...] = get_args(Unit)
STEPS: Unit = UNITS[0]

CEIL = re.compile(r" *ceil\((.*)\) *", re.IGNORECASE)
EPOCHS = re.compile(r" *(\d+\.?\d*|\.\d+) *(ep|epochs?) *", re.IGNORECASE | re.ASCII)

NOT_KNOWN = (
    "the length of the run is not known here: pass total_steps=... and steps_per_epoch=... [optimizer steps]"
    " (with Lightning, trainer=...), or write a number of optimizer steps"
)


def in_unit(text: str, unit: str) -> str:
    """Return a message about lengths in optimizer steps as one about lengths in ``unit``.

    >>> in_unit("write a number of optimizer steps", "sample")
    'write a number of samples'
    """
    return text if unit == STEPS else text.replace("optimizer steps", f"{unit}s")


@dataclass(frozen=True)
class Horizon:
    """The length of a training run, or the reason why it is not known.

    Args:
        total: length of the whole run [optimizer steps, or the unit of the schedule]; None: not known.
        per_epoch: mean length of an epoch [the same]; None: not known.
        why_no_total: why the total is not known, and which Trainer argument or which value would help.
        why_no_epoch: the same for the epoch.

    Example:
        >>> horizon = Horizon(total=1000, per_epoch=100)
        >>> horizon.steps(Fraction(0.1, "10%")), horizon.steps(Epochs(2, "2ep"))
        (100.0, 200)
    """

    total: int | None = None
    per_epoch: float | None = None
    why_no_total: str = NOT_KNOWN
    why_no_epoch: str = NOT_KNOWN

    @classmethod
    def given(cls, total_steps: int | None, steps_per_epoch: int | None) -> Horizon:
        """Return the horizon of a loop without a Trainer; None: not given.

        Raises:
            TypeError: if a length is no number.
            ValueError: if it is no whole number, or below 1.
        """
        total = None if total_steps is None else count("total_steps", total_steps, at_least=1)
        per_epoch = None if steps_per_epoch is None else count("steps_per_epoch", steps_per_epoch, at_least=1)
        return cls(total, per_epoch)

    def steps(self, length: Fraction | Epochs) -> float:
        """Return a length before it is rounded.

        Raises:
            ValueError: if the run's length is not known; the message says what helps.
        """
        if isinstance(length, Epochs):
            if self.per_epoch is None:
                raise ValueError(f"needs to know how long an epoch is, but {self.why_no_epoch}")
            return length.number * self.per_epoch
        if self.total is None:
            raise ValueError(f"needs to know how long the run is, but {self.why_no_total}")
        steps = length.fraction * self.total
        return math.ceil(steps) if length.up else steps

    def in_unit(self, unit: str) -> Horizon:
        """Return the same for a schedule that counts ``unit``: its reasons then speak of that."""
        if unit == STEPS:
            return self
        total, epoch = in_unit(self.why_no_total, unit), in_unit(self.why_no_epoch, unit)
        return replace(self, why_no_total=total, why_no_epoch=epoch)

    def knows(self, length: Fraction | Epochs) -> bool:
        """Return whether :meth:`steps` returns a number."""
        return (self.per_epoch if isinstance(length, Epochs) else self.total) is not None


@dataclass(frozen=True)
class Fraction:
    """A fraction of the whole run, in (0, 1]; ``written`` is what the user wrote: 0.1, ``"10%"``, ``"auto"``.

    ``up``: whether it is rounded up (``"ceil(0.1)"``).
    """

    fraction: float
    written: object = field(compare=False)
    up: bool = field(default=False, repr=False)

    waits_for = "run"


@dataclass(frozen=True)
class Epochs:
    """A number of epochs; ``written`` is what the user wrote: ``"2ep"``."""

    number: float
    written: object = field(compare=False)

    waits_for = "run"


def parse_length(
    key: str, value: object, *, at_least: int = 0, auto: float | None = None, or_else: str = ""
) -> int | Fraction | Epochs:
    """Return the length that ``value`` means.

    Args:
        key: name of the parameter, for messages.
        value: a whole number, a fraction of the run (0.1, ``"10%"``, or ``"ceil(0.1)"``, which is rounded up), epochs
            (``"2ep"``) or ``"auto"``; also as text.
        at_least: the smallest number.
        auto: the fraction of the run that ``"auto"`` means; None: the word is not allowed.
        or_else: what else is allowed, for messages.

    Raises:
        TypeError: if ``value`` has the wrong type.
        ValueError: if it is out of range.

    >>> parse_length("steps", "1e2"), parse_length("steps", "2 epochs"), parse_length("steps", "auto", auto=0.3)
    (100, Epochs(number=2.0, written='2 epochs'), Fraction(fraction=0.3, written='auto'))
    """
    written = value
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "auto" and auto is not None:
            return Fraction(auto, written)
        epochs = EPOCHS.fullmatch(value[:MAX_TEXT])
        if epochs and math.isfinite(float(epochs[1])):
            return Epochs(float(epochs[1]), written)
        ceil = CEIL.fullmatch(value[:MAX_TEXT])
        share = to_number(ceil[1]) if ceil else None
        if share is not None and 0 < share < 1:
            return Fraction(share, written, up=True)
        percent = to_number(text[:-1]) if text.endswith("%") else None
        if percent is not None:
            if not 0 < percent <= 100:
                raise ParameterValueError(key, f"must be a fraction above 0% and at most 100%, got {value!r}")
            return Fraction(percent / 100, written)
        spelled = to_number(value)
        value = written = value if spelled is None else spelled
    if isinstance(value, float) and 0 < value < 1:
        return Fraction(value, written)
    if isinstance(value, float) and value == 1.0:
        raise ParameterValueError(key, 'must not be 1.0: write 1 for one step, or "100%" for the whole run')
    hint = "" if auto is None else did_you_mean(short(value), ["auto"])
    return count(key, value, at_least=at_least, or_else=f"{_or_else(auto)}{or_else}{hint}")


def _or_else(auto: float | None) -> str:
    words = "" if auto is None else ', or "auto"'
    return f'; a length may also be a fraction of the run (0.1), epochs ("2ep"){words}'


def is_word(value: object, word: str) -> bool:
    """Return whether ``value`` is this word, in any case."""
    return isinstance(value, str) and value.strip().lower() == word


def rounded(
    horizon: Horizon, length: Fraction | Epochs, begin: float = 0.0, *, key: str = "length"
) -> tuple[int, float]:
    """Return a length as a whole number, at least 1, and its end before rounding.

    Rounded is the end of the length, so that lengths that follow each other are together as long as their sum.

    >>> run = Horizon(total=66)
    >>> [rounded(run, Fraction(f, f), begin)[0] for f, begin in ((0.3, 0), (0.6, 19.8), (0.1, 59.4))]
    [20, 39, 7]

    Args:
        horizon: how long the run is.
        length: the length.
        begin: where it begins, before rounding.
        key: name of the parameter, for messages.

    Raises:
        ValueError: if the run's length is not known; the message names the key and the remedy.
    """
    try:
        end = begin + horizon.steps(length)
    except ValueError as error:
        raise ParameterValueError(key, f"={length.written!r} {error}") from None
    if end > MAX_COUNT:
        raise ParameterValueError(key, f"={length.written!r} is longer than {MAX_COUNT} steps")
    return max(1, round(end) - round(begin)), end
