"""Growth: how the learning rate of a range test grows, and where the test ends by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_lrsched.schedulers import LRRangeTest
from lightning_lrsched.schedulers.checks import count, number
from lightning_lrsched.schedulers.durations import Duration, RunLength, resolve_steps

DEFAULT_MIN_LR = 1e-6
DEFAULT_MAX_LR = 10.0
DEFAULT_NUM_STEPS = 200


@dataclass(frozen=True)
class Growth:
    """The settings of a sweep; lengths may still be fractions of the run, epochs or ``"auto"``.

    Args:
        mode: ``"exponential"`` or ``"linear"``.
        min_lr: lr at step 0, one float or one per param group.
        linear: those of DeepSpeed's three parameters of linear growth that were given.
        max_lr: the largest lr; None: no limit.
        num_steps: the number of steps; None: no limit.
    """

    mode: str
    min_lr: float | list[float]
    linear: Mapping[str, Any]
    max_lr: float | None
    num_steps: Any

    @classmethod
    def of(
        cls,
        min_lr: float | list[float] | None,
        linear: Mapping[str, Any],
        mode: str | None,
        max_lr: float | None,
        num_steps: Any,
    ) -> Growth:
        """Fill in what was not given (None); refuse what cannot be, before training starts."""
        given = {key: value for key, value in linear.items() if value is not None}
        mode = mode or ("linear" if given else "exponential")
        if mode == "exponential":
            if given:
                raise ValueError(
                    f"{next(iter(given))} belongs to mode='linear'; exponential growth takes max_lr, num_steps"
                )
            max_lr = DEFAULT_MAX_LR if max_lr is None else max_lr
            num_steps = DEFAULT_NUM_STEPS if num_steps is None else num_steps
            min_lr = DEFAULT_MIN_LR if min_lr is None else min_lr
        elif min_lr is None:
            min_lr = LRRangeTest.parameters()["lr_range_test_min_lr"].default
        min_lr = list(min_lr) if isinstance(min_lr, tuple) else min_lr
        growth = cls(mode, min_lr, given, None if max_lr is None else number("max_lr", max_lr, above=0), num_steps)
        # A rehearsal, in a run of any length: wrong values are told now, not when training starts.
        lrs = min_lr if isinstance(min_lr, list) else [min_lr]
        groups = [{"params": [torch.zeros(1)]} for _ in lrs]
        growth.resolved(RunLength(10**6, 10**3)).build(torch.optim.SGD(groups, lr=1.0))
        return growth

    @property
    def needs_run(self) -> bool:
        """Whether a length depends on how long the run is."""
        lengths = {"num_steps": self.num_steps, **self.linear}
        return any(Duration.of(key, value) is not None for key, value in lengths.items())

    def resolved(self, run: RunLength) -> Growth:
        """Return the same with all lengths as numbers of optimizer steps."""
        num_steps = resolve_steps("num_steps", self.num_steps, run)
        return replace(
            self,
            linear={key: resolve_steps(key, value, run) for key, value in self.linear.items()},
            num_steps=None if num_steps is None else count("num_steps", num_steps, at_least=1),
        )

    @property
    def has_an_end(self) -> bool:
        """Whether the test ends by itself, even if the loss never diverges."""
        return self.num_steps is not None or self.max_lr is not None

    def build(self, optimizer: Optimizer) -> LRRangeTest:
        """Make the schedule; one lr for several param groups keeps the ratios of their own learning rates."""
        # Not the lr of this moment: a schedule of the module may have begun at 0.
        own_lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        largest = max(own_lrs)
        min_lr = self.min_lr
        if not isinstance(min_lr, list) and len(own_lrs) > 1 and largest > 0:
            if min(own_lrs) <= 0:
                raise ValueError(
                    f"param group {own_lrs.index(min(own_lrs))} has lr {min(own_lrs)!r}, so it has no ratio to the"
                    " others: give it an lr, or give lr_range_test_min_lr as a list with one for each param group"
                )
            min_lr = [number("lr_range_test_min_lr", min_lr, above=0) * lr / largest for lr in own_lrs]
        end = {"max_lr": self.max_lr, "num_steps": self.num_steps} if self.mode == "exponential" else {}
        return LRRangeTest(optimizer, min_lr, **self.linear, mode=self.mode, **end)

    def last_lr(self, schedule: LRRangeTest) -> float | None:
        """Return the largest lr that ``schedule`` will reach, None where it has no end."""
        return self.max_lr if self.num_steps is None else max(schedule.lr_at(self.num_steps))

    def ended_by(self, schedule: LRRangeTest, finished: int) -> str | None:
        """Return which limit ends the test after ``finished`` steps: ``"num_steps"``, ``"max_lr"`` or None."""
        if self.num_steps is not None and finished > self.num_steps:
            return "num_steps"
        # Exponential growth reaches max_lr with its last step.
        if self.mode == "linear" and self.max_lr is not None:
            return "max_lr" if max(schedule.lr_at(finished)) > self.max_lr * (1 + 1e-9) else None
        return None
