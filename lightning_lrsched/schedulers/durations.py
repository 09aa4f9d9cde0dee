"""Lengths that depend on the training run: "auto", 0.1 of the run, "2ep" -> optimizer steps, samples or tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_lrsched.schedulers.checks import count, to_number
from lightning_lrsched.schedulers.errors import ParameterValueError

EPOCHS = re.compile(r" *(\d+\.?\d*|\.\d+) *(ep|epochs?) *", re.IGNORECASE | re.ASCII)

Unit = Literal["step", "sample", "token"]
"""What the position and all lengths of a schedule count; a step is an optimizer step."""

UNITS: tuple[Unit, ...] = get_args(Unit)
STEPS: Unit = UNITS[0]

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
class RunLength:
    """The length of a training run, or the reason why it is not known.

    Args:
        total_steps: length of the whole run [optimizer steps, or the unit of the schedule]; None: not known.
        steps_per_epoch: length of one epoch [the same]; None: not known.
        why_no_total: why the total is not known, and which Trainer argument or which value would help.
        why_no_epoch: the same for the epoch.

    Example:
        >>> RunLength(total_steps=1000, steps_per_epoch=100).total_steps
        1000
    """

    total_steps: int | None = None
    steps_per_epoch: int | None = None
    why_no_total: str = NOT_KNOWN
    why_no_epoch: str = NOT_KNOWN

    @classmethod
    def given(cls, total_steps: int | None, steps_per_epoch: int | None) -> RunLength:
        """Return the length that a loop without a Trainer gives; None where it gives none.

        Raises:
            TypeError: if a length is no number.
            ValueError: if it is no whole number, or below 1.
        """
        lengths = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        known = {key: count(key, length, at_least=1) for key, length in lengths.items() if length is not None}
        return cls(known.get("total_steps"), known.get("steps_per_epoch"))


@dataclass(frozen=True)
class Duration:
    """A number of optimizer steps that depends on the run: a fraction of it, or a number of its epochs."""

    fraction: float | None = None
    epochs: float | None = None

    @classmethod
    def of(cls, value: Any, auto: float | None = None) -> Duration | None:
        """Return the duration that ``value`` means; None if it does not depend on the run.

        Args:
            value: as it is written in a configuration.
            auto: the fraction of the run that ``"auto"`` means; None: the word is not allowed.

        >>> Duration.of("2ep"), Duration.of(0.1), Duration.of("auto", auto=0.3)
        (Duration(fraction=None, epochs=2.0), Duration(fraction=0.1, epochs=None), Duration(fraction=0.3, epochs=None))
        >>> Duration.of(100) is None
        True
        """
        if is_auto(value):
            return None if auto is None else cls(fraction=auto)
        if isinstance(value, str):
            epochs = EPOCHS.fullmatch(value)
            if epochs:
                return cls(epochs=float(epochs[1]))
            value = to_number(value)
        return cls(fraction=value) if isinstance(value, float) and 0 < value < 1 else None

    def is_known(self, run: RunLength) -> bool:
        """Return whether the run is known well enough to compute a number of steps."""
        return (run.total_steps if self.epochs is None else run.steps_per_epoch) is not None

    def exact(self, run: RunLength) -> float:
        """Return the number of optimizer steps before rounding.

        Raises:
            ValueError: if the run's length is not known.
        """
        if self.epochs is not None:
            if run.steps_per_epoch is None:
                raise ValueError(f"needs to know how long an epoch is, but {run.why_no_epoch}")
            return self.epochs * run.steps_per_epoch
        if run.total_steps is None:
            raise ValueError(f"needs to know how long the run is, but {run.why_no_total}")
        return (self.fraction or 0.0) * run.total_steps


def is_auto(value: Any) -> bool:
    """Return whether ``value`` is the word auto, in any case."""
    return isinstance(value, str) and value.strip().lower() == "auto"


def resolve_steps(key: str, value: Any, run: RunLength, auto: float | None = 1.0, begin: float = 0.0) -> Any:
    """Return the number of optimizer steps that ``value`` means, at least one; what is not a duration, unchanged.

    Rounded is the end of the duration, so that durations that follow each other are together as long as their sum.

    >>> run = RunLength(total_steps=66)
    >>> [resolve_steps("steps", fraction, run, begin=begin) for fraction, begin in ((0.3, 0), (0.6, 19.8), (0.1, 59.4))]
    [20, 39, 7]

    Args:
        key: name of the parameter, for messages.
        value: as it is written in a configuration.
        run: how long the run is.
        auto: the fraction of the run that ``"auto"`` means.
        begin: where the duration begins, before rounding.

    Raises:
        ValueError: if the run's length is not known; the message names the key and the remedy.
    """
    duration = Duration.of(value, auto)
    if duration is None:
        return value
    try:
        return max(1, round(begin + duration.exact(run)) - round(begin))
    except ValueError as error:
        raise ParameterValueError(key, f"={value!r} {error}") from None
