"""OneCycle: the learning rate goes up and down once while momentum goes down and up, then both may decay."""

from __future__ import annotations

import sys
import warnings

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.checks import count, flag, for_each_group, number, one_or_per_group, ordered
from lightning_lrsched.schedulers.curves import cycle, linear_growth, reciprocal_decay
from lightning_lrsched.schedulers.param_groups import Range, Weights, has_momentum

LARGEST_MOMENTUM = 0.999
"""Growing momentum (``decay_mom_rate``) stops here: from 1 on, an optimizer never forgets and its updates explode."""


class OneCycle(ClosedFormLR):
    """Cycles lr and momentum once, in opposite directions (1Cycle), and then lets them decay.

    With ``total = first + second`` (the two step sizes) and ``f(s)`` going straight from 0 at step 0 to 1 at step
    ``first`` and back to 0 at ``total``, in the cycle, ``s <= total``::

        lr(s)       = min_lr + (max_lr - min_lr) * f(s)
        momentum(s) = max_mom - (max_mom - min_mom) * f(s)

    After it, with ``i = (s - total) / decay_step_size``::

        lr(s)       = min_lr / (1 + decay_lr_rate * i)
        momentum(s) = max_mom * (1 + decay_mom_rate * i)

    Momentum stops growing in all groups when the largest reaches 0.999. Stairs replace a straight line by that many
    flat steps.

    Momentum is ``momentum`` of SGD and RMSprop and the first beta of the Adam family; other betas stay untouched.

    Args:
        optimizer: the optimizer whose lr and momentum are scheduled.
        cycle_min_lr: lr at both ends of the cycle; one float, or one per param group.
        cycle_max_lr: lr at the top of the cycle; one float, or one per param group.
        decay_lr_rate: how fast the lr falls after the cycle, per ``decay_step_size``; 0: not at all.
        cycle_first_step_size: length of the rising half [optimizer steps].
        cycle_second_step_size: length of the falling half [optimizer steps]; None: as long as the first.
        cycle_first_stair_count: number of stairs in the rising half; 0: a straight line.
        cycle_second_stair_count: number of stairs in the falling half; None: as many as in the first.
        decay_step_size: interval of the decay phase [optimizer steps]; 0: no decay.
        cycle_momentum: cycle momentum too; False leaves it alone.
        cycle_min_mom: momentum at the top of the cycle, in [0, 1); one float, or one per param group.
        cycle_max_mom: momentum at both ends of the cycle, in [0, 1); one float, or one per param group.
        decay_mom_rate: how fast momentum grows after the cycle, per ``decay_step_size``; 0: not at all.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a low end lies above its high end, or a list is not as long as the
            optimizer's param groups.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.OneCycle``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> schedule = OneCycle(optimizer, 0.0, 1.0, cycle_first_step_size=4)
        >>> [schedule.lr_at(step)[0] for step in (0, 1, 2, 4, 6, 8, 9)]
        [0.0, 0.25, 0.5, 1.0, 0.5, 0.0, 0.0]
        >>> [round(schedule.momentum_at(step)[0], 9) for step in (0, 2, 4, 8)]
        [0.9, 0.85, 0.8, 0.9]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        cycle_min_lr: float | list[float],
        cycle_max_lr: float | list[float],
        decay_lr_rate: float = 0.0,
        cycle_first_step_size: int = 2000,
        cycle_second_step_size: int | None = None,
        cycle_first_stair_count: int = 0,
        cycle_second_stair_count: int | None = None,
        decay_step_size: int = 0,
        cycle_momentum: bool = True,
        cycle_min_mom: float | list[float] = 0.8,
        cycle_max_mom: float | list[float] = 0.9,
        decay_mom_rate: float = 0.0,
        last_batch_iteration: int = -1,
    ) -> None:
        self.cycle_min_lr = one_or_per_group("cycle_min_lr", cycle_min_lr, number, at_least=0)
        self.cycle_max_lr = one_or_per_group("cycle_max_lr", cycle_max_lr, number, at_least=0)
        self.decay_lr_rate = number("decay_lr_rate", decay_lr_rate, at_least=0)
        self.cycle_first_step_size = first = count("cycle_first_step_size", cycle_first_step_size, at_least=1)
        second = first if cycle_second_step_size is None else cycle_second_step_size
        self.cycle_second_step_size = count("cycle_second_step_size", second)
        self.cycle_first_stair_count = stairs = count("cycle_first_stair_count", cycle_first_stair_count)
        second_stairs = stairs if cycle_second_stair_count is None else cycle_second_stair_count
        self.cycle_second_stair_count = count("cycle_second_stair_count", second_stairs)
        self.decay_step_size = count("decay_step_size", decay_step_size)
        self.cycle_momentum = flag("cycle_momentum", cycle_momentum)
        self.cycle_min_mom = one_or_per_group("cycle_min_mom", cycle_min_mom, number, at_least=0, below=1)
        self.cycle_max_mom = one_or_per_group("cycle_max_mom", cycle_max_mom, number, at_least=0, below=1)
        self.decay_mom_rate = number("decay_mom_rate", decay_mom_rate, at_least=0)
        self._total_size = first + self.cycle_second_step_size
        largest = max(self.cycle_max_mom) if isinstance(self.cycle_max_mom, list) else self.cycle_max_mom
        self._largest_momentum_factor = max(1.0, LARGEST_MOMENTUM / max(largest, sys.float_info.min))
        self._momentum_in_use: bool | None = None
        super().__init__(optimizer, last_batch_iteration)
        if self.cycle_momentum and not self._momentum_in_use:
            warnings.warn(
                f"cycle_momentum has no effect: {type(self.optimizer).__name__} has no momentum"
                " (neither betas nor a momentum other than 0); the lr is scheduled all the same."
                " Give the optimizer a momentum, or set cycle_momentum to false.",
                stacklevel=2,
            )

    def _lr_ranges(self) -> list[Range]:
        groups = len(self.optimizer.param_groups)
        lows = for_each_group("cycle_min_lr", self.cycle_min_lr, groups)
        highs = for_each_group("cycle_max_lr", self.cycle_max_lr, groups)
        return ordered("cycle_min_lr", lows, "cycle_max_lr", highs)

    def _momentum_ranges(self) -> list[Range] | None:
        groups = len(self.optimizer.param_groups)
        lows = for_each_group("cycle_min_mom", self.cycle_min_mom, groups)
        highs = for_each_group("cycle_max_mom", self.cycle_max_mom, groups)
        ranges = ordered("cycle_min_mom", lows, "cycle_max_mom", highs)
        # Asked once: a cycle that goes down to 0 would later look like an optimizer without momentum.
        if self._momentum_in_use is None:
            self._momentum_in_use = has_momentum(self.optimizer)
        return ranges if self.cycle_momentum and self._momentum_in_use else None

    def _weights(self, step: int) -> Weights:
        if step <= self._total_size:
            up = cycle(
                step,
                self.cycle_first_step_size,
                self.cycle_second_step_size,
                self.cycle_first_stair_count,
                self.cycle_second_stair_count,
            )
            return 1.0 - up, up, up, 1.0 - up
        if not self.decay_step_size:
            return 1.0, 0.0, 0.0, 1.0
        after = step - self._total_size
        lr_factor = reciprocal_decay(after, self.decay_step_size, self.decay_lr_rate)
        momentum_factor = linear_growth(after, self.decay_step_size, self.decay_mom_rate, staircase=False)
        return lr_factor, 0.0, 0.0, min(momentum_factor, self._largest_momentum_factor)
