"""SweepSettings: how the learning rate of a range test grows, and where the test ends by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_lrsched.range_test.divergence import DIVERGENCE_FACTOR
from lightning_lrsched.range_test.smoothing import DEFAULT_SMOOTHING
from lightning_lrsched.schedulers import LRRangeTest
from lightning_lrsched.schedulers.checks import choice, count, number
from lightning_lrsched.schedulers.durations import Duration, RunLength, resolve_steps

MODES = ("linear", "exponential")
LINEAR = LRRangeTest.parameters()
DEFAULT_MIN_LR = 1e-6
DEFAULT_MAX_LR = 10.0
DEFAULT_NUM_STEPS = 200
"""[optimizer steps] Length of a single sweep."""

COARSE_STEPS = 100
"""[optimizer steps] Length of the coarse sweep over all decades, which only finds the lr at which the loss explodes."""

FINE_STEPS = 200
"""[optimizer steps] Length of the fine sweep around that lr, from which the suggestions are read."""

FINE_BELOW = 100.0
"""The fine sweep begins at this fraction of the lr at which the coarse one ended."""

FINE_ABOVE = 3.0
"""It ends at this multiple of the same lr: the coarse sweep may have ended too early."""

MAX_LINEAR_STEPS = 100_000
"""A linear sweep to ``max_lr`` that takes longer was probably given no step size."""


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep grows and when it ends; lengths may still be fractions of the run, epochs or ``"auto"``.

    Args:
        mode: ``"exponential"`` or ``"linear"``; None: linear where one of DeepSpeed's linear parameters is given.
        min_lr: lr at step 0, one float or one per param group; None: the default of the mode.
        linear: DeepSpeed's three parameters of linear growth; None where not given.
        max_lr: the largest lr; None: the default of exponential growth, no limit of linear growth.
        num_steps: the number of optimizer steps; None: as for ``max_lr``.
        smoothing: weight of the past in the smoothed loss, per optimizer step.
        divergence_factor: fraction of the fall so far that the smoothed loss may climb back.
        by_validation: whether the losses are validation losses.
        prior: the peak of 1Cycle to which the suggestions are drawn down; ``"auto"``: that of the optimizer's kind.
        then_fine: whether this is a coarse sweep, and a fine one around the lr where it ends follows; None: if no mode,
            range or length is given, the losses are training losses, and the stop rule is on.
    """

    mode: str | None = None
    min_lr: float | list[float] | None = None
    linear: Mapping[str, Any] = field(default_factory=dict)
    max_lr: float | None = None
    num_steps: Any = None
    smoothing: float = DEFAULT_SMOOTHING
    divergence_factor: float | None = DIVERGENCE_FACTOR
    by_validation: bool = False
    prior: float | str | None = "auto"
    then_fine: bool | None = None

    def __post_init__(self) -> None:
        """Fill in what was not given; refuse what is impossible, before training starts."""
        linear = {key: value for key, value in self.linear.items() if value is not None}
        mode = choice("mode", self.mode or ("linear" if linear else "exponential"), MODES)
        exponential = mode == "exponential"
        if exponential and linear:
            raise ValueError(
                f"{next(iter(linear))} belongs to mode='linear'; exponential growth takes max_lr, num_steps"
            )
        then_fine = self._is_default() if self.then_fine is None else self.then_fine
        min_lr = self.min_lr
        if min_lr is None:
            min_lr = DEFAULT_MIN_LR if exponential else _linear_defaults()["lr_range_test_min_lr"]
        max_lr = DEFAULT_MAX_LR if exponential and self.max_lr is None else self.max_lr
        num_steps = self.num_steps
        if exponential and num_steps is None:
            num_steps = COARSE_STEPS if then_fine else DEFAULT_NUM_STEPS
        checked = {
            "mode": mode,
            "min_lr": LINEAR["lr_range_test_min_lr"].check(min_lr),
            "linear": {key: _check_linear(key, value) for key, value in linear.items()},
            "num_steps": num_steps,
            "smoothing": number("smoothing", self.smoothing, at_least=0, below=1),
            "divergence_factor": _check_factor(self.divergence_factor),
            "prior": _check_prior(self.prior),
            "then_fine": then_fine,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if max_lr is not None:
            object.__setattr__(self, "max_lr", number("max_lr", max_lr, above=self.largest_min_lr))
        if self.num_steps is not None and Duration.of(self.num_steps, auto=1.0) is None:
            count("num_steps", self.num_steps, at_least=1)
        self._check_length()

    def _is_default(self) -> bool:
        """Return whether the range is left to the test; without a stop rule, a coarse sweep would find none."""
        given = [self.mode, self.min_lr, self.max_lr, self.num_steps, *self.linear.values()]
        stops = _check_factor(self.divergence_factor) < math.inf
        return all(value is None for value in given) and not self.by_validation and stops

    def fine(self, lr: float) -> SweepSettings:
        """Return those of the fine sweep, after a coarse one that ended at ``lr``."""
        return replace(self, min_lr=lr / FINE_BELOW, max_lr=lr * FINE_ABOVE, num_steps=FINE_STEPS, then_fine=False)

    @property
    def max_steps(self) -> Any:
        """The number of optimizer steps at most, with those of a fine sweep that follows; None where not known."""
        return self.num_steps + FINE_STEPS if self.then_fine else self.num_steps

    @property
    def linear_steps(self) -> int | None:
        """Optimizer steps in which linear growth reaches ``max_lr``; None if the test does not end there."""
        given = {**_linear_defaults(), **self.linear}
        size, rate = given["lr_range_test_step_size"], float(given["lr_range_test_step_rate"])
        if self.mode != "linear" or self.max_lr is None or self.num_steps is not None or not isinstance(size, int):
            return None
        return math.ceil(size * (self.max_lr / self.largest_min_lr - 1.0) / rate) + 1

    def _check_length(self) -> None:
        """Refuse a linear test that would take far too long to reach ``max_lr``."""
        steps = self.linear_steps
        if steps is not None and steps > MAX_LINEAR_STEPS:
            given = {**_linear_defaults(), **self.linear}
            size, rate = given["lr_range_test_step_size"], given["lr_range_test_step_rate"]
            raise ValueError(
                f"a linear test from lr {self.largest_min_lr:g} to max_lr={self.max_lr:g} would take {steps:,}"
                f" optimizer steps, because the lr grows by lr_range_test_step_rate={rate:g} times its start in"
                f" lr_range_test_step_size={size} steps: give a smaller lr_range_test_step_size, a larger"
                f" lr_range_test_step_rate (with {rate * steps / DEFAULT_NUM_STEPS:.3g} it takes {DEFAULT_NUM_STEPS}"
                " steps), or num_steps"
            )

    @property
    def largest_min_lr(self) -> float:
        """The largest lr at step 0."""
        return max(self.min_lr) if isinstance(self.min_lr, list) else float(self.min_lr or 0.0)

    @property
    def needs_run(self) -> bool:
        """Whether a length depends on how long the run is."""
        linear = any(LINEAR[key].waits_for(value) for key, value in self.linear.items())
        return linear or Duration.of(self.num_steps, auto=1.0) is not None

    @property
    def has_an_end(self) -> bool:
        """Whether the test ends by itself, even if the loss never diverges."""
        return self.num_steps is not None or self.max_lr is not None

    def resolved(self, run: RunLength) -> SweepSettings:
        """Return the same with all lengths as numbers of optimizer steps."""
        linear = {key: LINEAR[key].resolve(value, run) for key, value in self.linear.items()}
        return replace(self, linear=linear, num_steps=resolve_steps("num_steps", self.num_steps, run))


def _linear_defaults() -> dict[str, Any]:
    return {name: parameter.default for name, parameter in LINEAR.items()}


def _check_linear(key: str, value: Any) -> Any:
    return value if LINEAR[key].waits_for(value) else LINEAR[key].check(value)


def _check_prior(prior: Any) -> float | str | None:
    if isinstance(prior, str):
        return choice("prior", prior, ("auto",))
    return None if prior is None else number("prior", prior, above=0)


def _check_factor(factor: float | None) -> float:
    if factor is None or factor == math.inf:
        return math.inf
    return number("divergence_factor", factor, above=0)
