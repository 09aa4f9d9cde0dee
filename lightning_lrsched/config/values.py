"""What a configuration file writes where a number is meant, made into that number."""

from __future__ import annotations

import inspect
import re
from typing import Any

from lightning_lrsched.schedulers.checks import LONGEST_TEXT, to_number

LARGEST_NUMBER = 10**300


def is_count(parameter: inspect.Parameter) -> bool:
    """Tell whether a constructor's parameter takes whole numbers only."""
    return "int" in re.split(r"\W+", str(parameter.annotation)) and "float" not in str(parameter.annotation)


def is_text(parameter: inspect.Parameter) -> bool:
    """Tell whether a constructor's parameter takes a word."""
    return isinstance(parameter.default, str)


def is_flag(parameter: inspect.Parameter) -> bool:
    """Tell whether a constructor's parameter takes true or false."""
    return isinstance(parameter.default, bool)


def repair(key: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Return ``value`` with numbers for strings that spell them; what else is wrong, the constructor's checks tell.

    Raises:
        ValueError: if the value is too long to be shown in any error message.
    """
    if isinstance(value, (list, tuple)):
        return tuple(repair(f"{key}[{index}]", item, parameter) for index, item in enumerate(value))
    if isinstance(value, dict):
        raise TypeError(f"{key} must be a single value or a list of numbers, got a mapping")
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"{key} must be a number, got a text of {len(value)} characters")
        if is_text(parameter) or is_flag(parameter):
            return value
        number = to_number(value)
        value = value if number is None else number
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{key} must be a number of reasonable size, got one with more than 300 digits")
    # JSON writers spell counts as 2e3 or 2000.0; DeepSpeed hands them to range() and the like.
    return int(value) if isinstance(value, float) and is_count(parameter) and value.is_integer() else value
