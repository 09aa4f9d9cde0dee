"""LRRangeTest: a learning rate that only grows, to find where training stops improving and where it diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.curves import linear_growth
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.rules import Number, Steps


class LRRangeTest(ClosedFormLR):
    """Grows the learning rate from a small value, step by step, in a straight line or in stairs.

    With ``interval = s / step_size``, rounded down with ``staircase``::

        lr(s) = min_lr * (1 + step_rate * interval)

    All param groups grow by the same factor, so the ratios of their learning rates stay as they are at the start.
    (:class:`~lightning_lrsched.LRRangeTestCallback` also grows the lr exponentially.)

    Args:
        optimizer: the optimizer whose learning rate is swept.
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. Greater than 0.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps].
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``. Greater than 0.
        lr_range_test_staircase: hold the lr within each interval.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or a list is not as long as the optimizer's param groups.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.LRRangeTest``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = LRRangeTest(optimizer, lr_range_test_min_lr=0.5, lr_range_test_step_size=2)
        >>> [schedule.lr_at(step)[0] for step in range(5)]
        [0.5, 0.75, 1.0, 1.25, 1.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_range_test_min_lr: Annotated[float | list[float], Number(above=0)] = 1e-3,
        lr_range_test_step_size: Annotated[int, Steps(at_least=1, auto=0.01)] = 2000,
        lr_range_test_step_rate: Annotated[float, Number(above=0)] = 1.0,
        lr_range_test_staircase: bool = False,
        last_batch_iteration: int = -1,
    ) -> None:
        super().__init__(optimizer, last_batch_iteration, LRRangeTest, locals())

    @classmethod
    def preview_steps(cls, parameters: Mapping[str, Any]) -> int:
        """Return five intervals."""
        return 5 * int(parameters["lr_range_test_step_size"])

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        min_lr, rate = p.lr_range_test_min_lr, p.lr_range_test_step_rate
        size, staircase = p.lr_range_test_step_size, p.lr_range_test_staircase

        def values(s: int) -> tuple[Any, None]:
            return min_lr * linear_growth(s, size, rate, staircase), None

        return values
