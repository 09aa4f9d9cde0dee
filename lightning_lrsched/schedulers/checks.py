"""What a hyperparameter may be: every error names the key, the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
LONGEST_TEXT = 200

LARGEST_COUNT = 2**53
"""Up to here a float counts in ones; a schedule that long is a slip of the keyboard."""


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
        raise TypeError(f"{key} must be {allowed}, got {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    inside = at_least <= result <= at_most and above < result < below
    if not (math.isfinite(result) and inside):
        raise ValueError(f"{key} must be {allowed}, got {value!r}")
    return result


def count(key: str, value: Any, *, at_least: int = 0) -> int:
    """Return ``value`` as a whole number that is not below ``at_least`` (nor above ``LARGEST_COUNT``)."""
    allowed = f"a whole number, at least {at_least}"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(f"{key} must be {allowed}, got {value!r} ({type(value).__name__})")
    if value > LARGEST_COUNT:
        allowed = f"{allowed} and at most {LARGEST_COUNT}"
    # JSON writers spell counts as 2e3 or 2000.0: the value is whole, so the meaning is clear.
    whole = isinstance(value, Integral) or (math.isfinite(value) and float(value).is_integer())
    if not whole or not at_least <= int(value) <= LARGEST_COUNT:
        raise ValueError(f"{key} must be {allowed}, got {value!r}")
    return int(value)


def flag(key: str, value: Any) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{key} must be true or false, got {value!r} ({type(value).__name__})")
    return value


def choice(key: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        hint = did_you_mean(value, allowed)
        raise ValueError(f"{key} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")
    return value


def one_or_per_group(key: str, value: Any, check: Callable[..., float], **limits: float) -> float | list[float]:
    """Return one checked number, or a list of them: one for each param group."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError(f"{key} must be one number or a list with one for each param group, got {value!r}")
        return [check(f"{key}[{index}]", item, **limits) for index, item in enumerate(value)]
    return check(key, value, **limits)


def for_each_group(key: str, value: float | list[float], groups: int) -> list[float]:
    """Return one value for each of the optimizer's ``groups`` param groups."""
    if not isinstance(value, list):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{key} lists {len(value)} values, but the optimizer has {groups} param groups: {value!r}")
    return value


def ordered(low_key: str, lows: list[float], high_key: str, highs: list[float]) -> list[tuple[float, float]]:
    """Pair the ends of each group's range; the low end may not lie above the high end."""
    for group, (low, high) in enumerate(zip(lows, highs, strict=True)):
        if low > high:
            raise ValueError(
                f"{low_key} must not be greater than {high_key}, got {low_key}={low!r} and {high_key}={high!r}"
                f" (param group {group})"
            )
    return list(zip(lows, highs, strict=True))


def to_number(text: str) -> int | float | None:
    """Return the number that ``text`` spells, or None; PyYAML leaves ``1e-5`` a string, and people quote numbers.

    >>> to_number("1e-5"), to_number("100"), to_number("1e2"), to_number("auto")
    (1e-05, 100, 100.0, None)
    """
    text = text.strip(" ")
    if len(text) > LONGEST_TEXT or not NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)
