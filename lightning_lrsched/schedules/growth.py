"""A learning rate that only grows, to find where training stops improving and where it diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from lightning_lrsched.schedules.curves import exponential_growth, linear_growth
from lightning_lrsched.schedules.fields import Number, Steps, declared
from lightning_lrsched.schedules.schedule import Curve, Schedule, Value

MinLr = Annotated[Value, Number(above=0, per_group=True)]


@declared
class LinearGrowth(Schedule):
    """Grows the learning rate from a small value, step by step, in a straight line or in stairs.

    With ``interval = s / step_size``, rounded down with ``staircase``::

        lr(s) = min_lr * (1 + step_rate * interval)

    All param groups grow by the same factor, so the ratios of their learning rates stay as they are at the start.
    (:class:`~lightning_lrsched.LRRangeTestCallback` also grows the lr exponentially.)

    Args:
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. Greater than 0.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps].
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``. Greater than 0.
        lr_range_test_staircase: hold the lr within each interval.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.LRRangeTest``.
    """

    type: ClassVar[str] = "LRRangeTest"

    lr_range_test_min_lr: MinLr = 1e-3
    lr_range_test_step_size: Annotated[int, Steps(at_least=1, auto=0.01)] = 2000
    lr_range_test_step_rate: Annotated[float, Number(above=0)] = 1.0
    lr_range_test_staircase: bool = False

    @property
    def preview_steps(self) -> int:
        """Five intervals."""
        return 5 * self.lr_range_test_step_size

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        min_lr, rate = self.lr_range_test_min_lr, self.lr_range_test_step_rate
        size, staircase = self.lr_range_test_step_size, self.lr_range_test_staircase

        def values(s: int) -> dict[str, Value]:
            return {"lr": min_lr * linear_growth(s, size, rate, staircase)}

        return values


@declared
class ExponentialGrowth(Schedule):
    """Grows the lr of every param group by the same factor at every step: ``lr(s) = min_lr * factor ** (s / last)``.

    Args:
        lr_range_test_min_lr: lr at step 0, one float or one per param group.
        factor: how much it has grown at ``last_step``; after that it stays constant.
        last_step: the step of the largest lr [optimizer steps].
    """

    type: ClassVar[str] = "ExponentialGrowth"

    lr_range_test_min_lr: MinLr
    factor: Annotated[float, Number(above=1)]
    last_step: Annotated[int, Steps()]

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        min_lr, factor, last = self.lr_range_test_min_lr, self.factor, max(1, self.last_step)

        def values(s: int) -> dict[str, Value]:
            return {"lr": min_lr * exponential_growth(s, last, factor)}

        return values
