"""LRRangeTest: a learning rate that only grows, to find where training stops to profit and where it diverges."""

from __future__ import annotations

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.checks import choice, count, flag, for_each_group, number, one_or_per_group
from lightning_lrsched.schedulers.curves import exponential_growth, linear_growth
from lightning_lrsched.schedulers.param_groups import Range, Weights

GROWTH_MODES = ("linear", "exponential")


class LRRangeTest(ClosedFormLR):
    """Grows the learning rate from a small value, step by step: linearly, in stairs, or exponentially.

    With ``interval = s / step_size``, rounded down with ``staircase``, and ``largest`` the highest ``min_lr`` of all
    param groups::

        linear:       lr(s) = min_lr * (1 + step_rate * interval)
        exponential:  lr(s) = min_lr * (max_lr / largest) ** min(1, s / num_steps)

    In both, all param groups grow by the same factor, so the ratios of their learning rates stay as they are at the
    start.

    Args:
        optimizer: the optimizer whose learning rate is swept.
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. Greater than 0.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps].
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``. Greater than 0.
        lr_range_test_staircase: hold the lr within each interval.
        mode: ``"linear"`` (DeepSpeed's growth) or ``"exponential"``; exponential growth uses ``max_lr`` and
            ``num_steps`` instead of step size, step rate and staircase.
        max_lr: the largest lr that any group reaches, at ``num_steps`` (exponential growth only).
        num_steps: length of the exponential growth [optimizer steps].
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or a list is not as long as the optimizer's param groups.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.LRRangeTest``; exponential growth: fastai's lr finder.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = LRRangeTest(optimizer, lr_range_test_min_lr=0.5, lr_range_test_step_size=2)
        >>> [schedule.lr_at(step)[0] for step in range(5)]
        [0.5, 0.75, 1.0, 1.25, 1.5]
        >>> schedule = LRRangeTest(optimizer, 0.01, mode="exponential", max_lr=1.0, num_steps=2)
        >>> [round(schedule.lr_at(step)[0], 9) for step in range(4)]
        [0.01, 0.1, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_range_test_min_lr: float | list[float] = 1e-3,
        lr_range_test_step_size: int = 2000,
        lr_range_test_step_rate: float = 1.0,
        lr_range_test_staircase: bool = False,
        last_batch_iteration: int = -1,
        *,
        mode: str = "linear",
        max_lr: float | None = None,
        num_steps: int | None = None,
    ) -> None:
        self.lr_range_test_min_lr = one_or_per_group("lr_range_test_min_lr", lr_range_test_min_lr, number, above=0)
        self.lr_range_test_step_size = count("lr_range_test_step_size", lr_range_test_step_size, at_least=1)
        self.lr_range_test_step_rate = number("lr_range_test_step_rate", lr_range_test_step_rate, above=0)
        self.lr_range_test_staircase = flag("lr_range_test_staircase", lr_range_test_staircase)
        self.mode = choice("mode", mode, GROWTH_MODES)
        self.max_lr, self.num_steps = max_lr, num_steps
        if self.mode == "exponential":
            for key, value in (("max_lr", max_lr), ("num_steps", num_steps)):
                if value is None:
                    raise TypeError(f"{key} must be given with mode='exponential', got None")
            lowest = self.lr_range_test_min_lr
            self._largest_min_lr = max(lowest) if isinstance(lowest, list) else lowest
            self.max_lr = number("max_lr", max_lr, above=self._largest_min_lr)
            self.num_steps = count("num_steps", num_steps, at_least=1)
        elif max_lr is not None or num_steps is not None:
            given = "max_lr" if max_lr is not None else "num_steps"
            raise ValueError(f"{given} needs mode='exponential'; mode='linear' grows without an end")
        super().__init__(optimizer, last_batch_iteration)

    def _lr_ranges(self) -> list[Range]:
        lows = for_each_group("lr_range_test_min_lr", self.lr_range_test_min_lr, len(self.optimizer.param_groups))
        return [(low, low) for low in lows]

    def _weights(self, step: int) -> Weights:
        if self.max_lr is not None and self.num_steps is not None:
            factor = exponential_growth(step, self.num_steps, self.max_lr / self._largest_min_lr)
        else:
            factor = linear_growth(
                step, self.lr_range_test_step_size, self.lr_range_test_step_rate, self.lr_range_test_staircase
            )
        return factor, 0.0, 0.0, 0.0
