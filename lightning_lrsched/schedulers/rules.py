"""Rules: what the value of a parameter may be, and what ``"auto"`` means for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_lrsched.schedulers.checks import choice, count, flag, number
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError


@dataclass(frozen=True)
class AutoLr:
    """What ``"auto"`` means for a learning rate: a fraction of each param group's own lr, or of another parameter."""

    fraction: float
    of: str | None = None

    def __str__(self) -> str:
        if self.fraction == 0.0:
            return "0"
        base = "each param group's own lr" if self.of is None else self.of
        return base if self.fraction == 1.0 else f"{self.fraction:g} of {base}"


OWN_LR = AutoLr(1.0)
ZERO = AutoLr(0.0)

FROM_RANGE_TEST = "lr_range_test"
"""The word for a learning rate that an LR range test at the start of the fit finds."""

Finding = Literal["low", "high", "suggestion"]
"""What a range test finds: the two bounds for 1Cycle, and a good fixed lr."""


def is_from_range_test(value: Any) -> bool:
    """Return whether ``value`` is the word for a learning rate that a range test finds, in any case."""
    return isinstance(value, str) and value.strip().lower() == FROM_RANGE_TEST


Shape = Literal["linear", "cosine", "1-sqrt", "exponential"]
"""How a value goes to another one: the names of ``curves.FALLS``."""

RATIO = "ratio"
"""The key of a learning rate that is a multiple of each param group's own: ``{"ratio": 0.1}``."""


@dataclass(frozen=True)
class Number:
    """A finite number within limits; where the type allows a list, one number for each param group.

    ``finding`` is what ``"lr_range_test"`` means for a learning rate; None: the word is not allowed. With ``ratio``, a
    learning rate may be ``{"ratio": 0.1}``, a multiple of each group's own.
    """

    at_least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    auto: AutoLr | None = None
    finding: Finding | None = None
    ratio: bool = False

    metavar = "X"

    def check(self, key: str, value: Any) -> float | dict[str, float]:
        """Return ``value`` as a float (or the ratio as one), or raise ParameterError."""
        if self.ratio and isinstance(value, Mapping):
            if set(value) != {RATIO}:
                raise ParameterValueError(key, f'must be a number or {{"{RATIO}": <number>}}, got {dict(value)!r}')
            return {RATIO: number(f"{key}.{RATIO}", value[RATIO], at_least=0)}
        limits = {"at_least": self.at_least, "above": self.above, "below": self.below, "at_most": self.at_most}
        return number(key, value, **limits)


@dataclass(frozen=True)
class Count:
    """A whole number."""

    at_least: int = 0
    auto: None = None

    metavar = "N"

    def check(self, key: str, value: Any) -> int:
        """Return ``value`` as an int, or raise ParameterError."""
        return count(key, value, at_least=self.at_least)


@dataclass(frozen=True)
class Steps:
    """A number of optimizer steps; ``auto`` is the fraction of the run that ``"auto"`` means.

    With ``follows`` they begin where those of the parameter before it end.
    """

    at_least: int = 0
    auto: float | None = None
    follows: bool = False

    metavar = "STEPS"

    def check(self, key: str, value: Any) -> int:
        """Return ``value`` as an int, or raise ParameterError."""
        return count(key, value, at_least=self.at_least)


@dataclass(frozen=True)
class Switch:
    """True or false."""

    auto: None = None

    metavar = "true|false"

    def check(self, key: str, value: Any) -> bool:
        """Return ``value``, or raise ParameterError."""
        return flag(key, value)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    allowed: tuple[str, ...]
    auto: None = None

    metavar = None

    def check(self, key: str, value: Any) -> str:
        """Return ``value``, or raise ParameterError."""
        return choice(key, value, self.allowed)


@dataclass(frozen=True)
class ListOf:
    """A list of mappings, whose keys the constructor of ``entry`` declares as that of a schedule does."""

    entry: type
    auto: None = None

    metavar = "JSON"

    def check(self, key: str, value: Any) -> Any:
        """Raise ParameterError where ``value`` is not a list of mappings; what is in them has rules of its own."""
        name = self.entry.__name__.lower()
        allowed = f"must be a list with a mapping for each {name}"
        if not isinstance(value, (list, tuple)):
            raise ParameterTypeError(key, f"{allowed}, got {value!r}")
        for index, entry in enumerate(value):
            if not isinstance(entry, Mapping):
                raise ParameterTypeError(f"{key}[{index}]", f"must be a mapping, got {entry!r}")
        if not value:
            raise ParameterValueError(key, f"{allowed}, at least one; got {value!r}")
        return value


@dataclass(frozen=True)
class AnyValue:
    """Anything: a parameter of a class that checks its values itself."""

    auto: None = None

    metavar = "X"

    def check(self, key: str, value: Any) -> Any:
        """Return ``value``."""
        return value


Rule = Number | Count | Steps | Switch | Choice | ListOf | AnyValue
