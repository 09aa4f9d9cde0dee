"""Checks of single values: each error names the key, the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
MAX_TEXT = 200

MAX_COUNT = 2**53
"""Largest range in which floats represent every integer; a longer schedule is a typo."""


def did_you_mean(word: object, allowed: Sequence[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest allowed spelling, or an empty string."""
    by_lower = {name.lower(): name for name in allowed}
    near = get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def number(
    key: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Return ``value`` as a finite float inside the given limits."""
    limits = {"at least": at_least, "greater than": above, "less than": below, "at most": at_most}
    allowed = " and ".join(["a finite number", *(f"{k} {v:g}" for k, v in limits.items() if math.isfinite(v))])
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ParameterTypeError(key, f"must be {allowed}, got {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    inside = at_least <= result <= at_most and above < result < below
    if not (math.isfinite(result) and inside):
        raise ParameterValueError(key, f"must be {allowed}, got {value!r}")
    return result


def count(key: str, value: Any, *, at_least: int = 0) -> int:
    """Return ``value`` as a whole number that is not below ``at_least`` (nor above ``MAX_COUNT``)."""
    allowed = f"a whole number, at least {at_least}"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise ParameterTypeError(key, f"must be {allowed}, got {value!r} ({type(value).__name__})")
    if value > MAX_COUNT:
        allowed = f"{allowed} and at most {MAX_COUNT}"
    # JSON may spell a count as 2e3 or 2000.0: the value is whole, so the meaning is clear.
    whole = isinstance(value, Integral) or (math.isfinite(value) and float(value).is_integer())
    if not whole or not at_least <= int(value) <= MAX_COUNT:
        raise ParameterValueError(key, f"must be {allowed}, got {value!r}")
    return int(value)


def flag(key: str, value: Any) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise ParameterTypeError(key, f"must be true or false, got {value!r} ({type(value).__name__})")
    return value


def choice(key: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        hint = did_you_mean(value, allowed)
        raise ParameterValueError(key, f"must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")
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
