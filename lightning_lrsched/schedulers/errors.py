"""ParameterError: what is wrong with one parameter of a configuration, and the path of its key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
        """Return the same error with ``prefix`` before its key."""
        return type(self)(f"{prefix}{self.key}", self.problem)


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
