"""What is wrong with a value: the errors that name its key, and the checks of single values that raise them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

Class = TypeVar("Class", bound=type)

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
INF = math.inf
MAX_TEXT = 200
MAX_DIGITS = 300

MAX_COUNT = 2**53
"""Largest range in which floats represent every integer; a longer schedule is a typo."""


# Errors ---------------------------------------------------------------------------------------------------------------


class ParameterError(Exception):
    """A parameter has a wrong value; always raised as :class:`ParameterValueError` or :class:`ParameterTypeError`.

    Args:
        key: the parameter's key, with the path that leads to it (``scheduler.params.warmup_num_steps``).
        problem: what is wrong, as the rest of a sentence that begins with the key, or after a colon.

    Example:
        >>> error = ParameterValueError("warmup_num_steps", "must be at least 0, got -1")
        >>> str(error.under("scheduler.params."))
        'scheduler.params.warmup_num_steps must be at least 0, got -1'
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key: str
        self.problem: str
        self.key, self.problem = self.args

    def __str__(self) -> str:
        return f"{self.key}{self.problem}" if self.problem[:1] in ":=" else f"{self.key} {self.problem}"

    def under(self, prefix: str) -> ParameterError:
        """Return the same error with ``prefix`` before its key; an error without a key is about the whole."""
        return type(self)(f"{prefix}{self.key}" if self.key else prefix.rstrip("."), self.problem)


class ParameterValueError(ParameterError, ValueError):
    """A parameter is missing, unknown, or out of range."""


class ParameterTypeError(ParameterError, TypeError):
    """A parameter has the wrong type."""


@contextmanager
def key_path(prefix: str) -> Iterator[None]:
    """Put ``prefix`` before the key of a ParameterError that is raised inside."""
    try:
        yield
    except ParameterError as error:
        raise error.under(prefix) from None


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest allowed spelling, or an empty string.

    >>> did_you_mean("warmup_num_step", ["warmup_num_steps", "warmup_type"])
    " (did you mean 'warmup_num_steps'?)"
    """
    by_lower = {name.lower(): name for name in allowed}
    longer = [name for name in by_lower if name.endswith(f"_{str(word).lower()}")]
    near = longer if len(longer) == 1 else get_close_matches(str(word).lower(), by_lower)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def short(value: object) -> str:
    """Return ``value`` as it is shown in an error message: at most 80 characters of it."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to spell a number of thousands of digits
        return "a number with thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def names_arguments(cls: Class) -> Class:
    """Have a class say what was probably meant where it is called with a keyword that it does not have."""
    init: Callable[..., None] = vars(cls).get("__init__", object.__init__)
    parameters = list(inspect.signature(init).parameters.values())[1:]
    allowed = [each.name for each in parameters]
    if "__init__" not in vars(cls) or any(each.kind is each.VAR_KEYWORD for each in parameters):
        return cls  # a subclass of the user's

    @wraps(init)
    def call(self: object, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in allowed:
                takes = ", ".join(each for each in allowed if each != "optimizer")
                raise TypeError(
                    f"{cls.__name__} has no argument {name!r}{did_you_mean(name, allowed)}; it takes {takes}"
                )
        init(self, *args, **kwargs)

    cls.__init__ = call  # type: ignore[misc]
    return cls


# Checks ---------------------------------------------------------------------------------------------------------------


def number(
    key: str, value: object, *, at_least: float = -INF, above: float = -INF, below: float = INF, at_most: float = INF
) -> float:
    """Return ``value`` as a finite float inside the given limits."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if at_least <= result <= at_most and above < result < below and math.isfinite(result):
            return result
        raise ParameterValueError(key, f"must be {_limits(at_least, above, below, at_most)}, got {short(value)}")
    raise ParameterTypeError(
        key, f"must be {_limits(at_least, above, below, at_most)}, got {short(value)} ({type(value).__name__})"
    )


def _limits(at_least: float, above: float, below: float, at_most: float) -> str:
    limits = {"at least": at_least, "greater than": above, "less than": below, "at most": at_most}
    return " and ".join(["a finite number", *(f"{k} {v:g}" for k, v in limits.items() if math.isfinite(v))])


def count(key: str, value: Any, *, at_least: int = 0, or_else: str = "") -> int:
    """Return ``value`` as a whole number that is not below ``at_least`` (nor above ``MAX_COUNT``).

    Args:
        key: name of the parameter, for messages.
        value: the value.
        at_least: the smallest number.
        or_else: what the value may be instead, the end of a message.
    """
    allowed = f"a whole number, at least {at_least}"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise ParameterTypeError(key, f"must be {allowed}, got {short(value)} ({type(value).__name__}){or_else}")
    if value > MAX_COUNT:
        allowed = f"{allowed} and at most {MAX_COUNT}"
    # JSON may spell a count as 2e3 or 2000.0: the value is whole, so the meaning is clear.
    whole = isinstance(value, Integral) or (math.isfinite(value) and float(value).is_integer())
    if not whole or not at_least <= int(value) <= MAX_COUNT:
        raise ParameterValueError(key, f"must be {allowed}, got {short(value)}{or_else}")
    return int(value)


def switch(key: str, value: object) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, (bool, np.bool_)):
        raise ParameterTypeError(key, f"must be true or false, got {short(value)} ({type(value).__name__})")
    return bool(value)


def choice(key: str, value: object, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        hint = did_you_mean(short(value), allowed)
        raise ParameterValueError(key, f"must be one of {', '.join(map(repr, allowed))}, got {short(value)}{hint}")
    return value


def to_number(text: str) -> int | float | None:
    """Return the number that ``text`` spells, or None; PyYAML leaves ``1e-5`` a string, and people quote numbers.

    >>> to_number("1e-5"), to_number("100"), to_number("1e2"), to_number("auto")
    (1e-05, 100, 100.0, None)
    """
    text = text.strip(" ")
    if len(text) > MAX_TEXT or not NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)
