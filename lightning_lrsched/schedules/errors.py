"""ParameterError: what is wrong with one parameter of a configuration, and the path of its key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


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
        self.key = key
        self.problem = problem

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
    near = longer if len(longer) == 1 else get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.6)
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
