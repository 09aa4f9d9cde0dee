"""How the lr grows in a range test: one schedule for linear growth, one for exponential growth."""

from __future__ import annotations

from typing import Annotated, Any

from torch.optim import Optimizer

from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.schedulers import ClosedFormLR, LRRangeTest
from lightning_lrsched.schedulers.curves import exponential_growth
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.param_groups import check_groups
from lightning_lrsched.schedulers.rules import Number, Steps


class ExponentialGrowth(ClosedFormLR):
    """Grows the lr of every param group by the same factor at every step: ``lr(s) = min_lr * factor ** (s / last)``.

    Args:
        optimizer: the optimizer whose learning rate is swept.
        lr_range_test_min_lr: lr at step 0, one float or one per param group.
        factor: how much it has grown at ``last_step``; after that it stays constant.
        last_step: the step of the largest lr [optimizer steps].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_range_test_min_lr: Annotated[float | list[float], Number(above=0)],
        factor: Annotated[float, Number(above=1)],
        last_step: Annotated[int, Steps()],
    ) -> None:
        super().__init__(optimizer, -1, ExponentialGrowth, locals())

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        min_lr, factor, last = p.lr_range_test_min_lr, p.factor, max(1, p.last_step)

        def values(s: int) -> tuple[Any, None]:
            return min_lr * exponential_growth(s, last, factor), None

        return values


def make_schedule(settings: SweepSettings, optimizer: Optimizer) -> ClosedFormLR:
    """Make the schedule; one lr for several param groups keeps the ratios of their own learning rates."""
    check_groups(optimizer)
    min_lr = _min_lr(settings, optimizer)
    if settings.mode == "linear":
        return LRRangeTest(optimizer, min_lr, **settings.linear)
    assert settings.max_lr is not None
    return ExponentialGrowth(optimizer, min_lr, settings.max_lr / settings.largest_min_lr, settings.num_steps - 1)


def _min_lr(settings: SweepSettings, optimizer: Optimizer) -> float | list[float]:
    if isinstance(settings.min_lr, list):
        return settings.min_lr
    # Not the lr of this moment: a schedule of the module may have begun at 0.
    own_lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    lowest, largest = min(own_lrs), max(own_lrs)
    if len(own_lrs) == 1 or largest <= 0:
        return settings.largest_min_lr
    if lowest <= 0:
        raise ValueError(
            f"param group {own_lrs.index(lowest) + 1} has lr {lowest!r}, so it has no ratio to the"
            " others: give it an lr, or give lr_range_test_min_lr as a list with one for each param group"
        )
    return [settings.largest_min_lr * lr / largest for lr in own_lrs]
