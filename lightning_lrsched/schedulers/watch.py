"""Two watches over a schedule that would otherwise go wrong without a word: never stepped, or not restored."""

from __future__ import annotations

import warnings
import weakref
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


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


class RestoreWatch:
    """Warns, before the next step, where an optimizer's state was loaded, but none for the schedule that follows it.

    Such a schedule would begin again in the middle of a training.
    """

    def __init__(self, schedule: Watched) -> None:
        self._schedule = weakref.ref(schedule)
        self._load_hook = schedule.optimizer.register_load_state_dict_post_hook(self._on_load)
        self._step_hook: RemovableHandle | None = None

    def stop(self) -> None:
        """Watch no longer."""
        self._load_hook.remove()
        self.position_was_told()

    def position_was_told(self) -> None:
        """Expect nothing more: the schedule knows where it stands."""
        if self._step_hook is not None:
            self._step_hook.remove()
            self._step_hook = None

    def _on_load(self, optimizer: Optimizer) -> None:
        schedule = self._schedule()
        made_steps = bool(optimizer.state)
        if schedule is not None and schedule.last_epoch == 0 and made_steps and self._step_hook is None:
            self._step_hook = optimizer.register_step_pre_hook(self._warn)

    def _warn(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.position_was_told()
        schedule = self._schedule()
        if schedule is not None:
            warnings.warn(
                f"the state of {type(optimizer).__name__} was loaded, but none for {type(schedule).__name__}, which"
                f" goes on from step {schedule.last_epoch}: load its state too, or give it the position"
                " (last_batch_iteration)",
                stacklevel=2,
            )
