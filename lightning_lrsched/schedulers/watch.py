"""StepWatch: tells when an optimizer makes steps of which its schedule is not told."""

from __future__ import annotations

import warnings
import weakref
from typing import Any, Protocol

from torch.optim import Optimizer


class Watched(Protocol):
    """A schedule, as far as it is watched."""

    optimizer: Optimizer
    last_epoch: int


class StepWatch:
    """Warns, once and at the optimizer's second step, where nobody called the schedule's ``step`` after the first.

    Stepped once an epoch (Lightning's default for a scheduler that a module returns), or never (manual optimization), a
    schedule that counts optimizer steps would stand at its first values, and nobody would see it.
    """

    def __init__(self, schedule: Watched) -> None:
        self._schedule = weakref.ref(schedule)
        self._groups = schedule.optimizer.param_groups
        self._steps = 0
        self._hook = schedule.optimizer.register_step_post_hook(self._count)

    def stop(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _count(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        schedule = self._schedule()
        if schedule is None:
            self.stop()
        # One that waits for its turn in SequentialLR stands at -1; ZeRO steps with one param group after the other.
        elif schedule.last_epoch >= 0 and optimizer.param_groups is self._groups:
            self._steps += 1
            if self._steps == 2:
                self.stop()
                warnings.warn(
                    f"{type(schedule).__name__} counts optimizer steps, but its step() was not called between two of"
                    " them: call it after each, or follow_optimizer() once (in Lightning: interval 'step', not 'epoch',"
                    " or what lightning_lrsched.configure_optimizers returns)",
                    stacklevel=2,
                )
