from __future__ import annotations

import pytest

from lightning_lrsched.schedulers import LRRangeTest

from .helpers import adamw, lrs, momenta, sgd


def curve(schedule: LRRangeTest, steps: int) -> list[float]:
    return [schedule.lr_at(step)[0] for step in range(steps)]


def test_the_first_five_values() -> None:
    schedule = LRRangeTest(sgd(), lr_range_test_min_lr=0.5, lr_range_test_step_size=4, lr_range_test_step_rate=2.0)
    assert curve(schedule, 5) == [0.5, 0.75, 1.0, 1.25, 1.5]


def test_the_staircase_is_flat_within_each_interval() -> None:
    schedule = LRRangeTest(sgd(), 0.5, lr_range_test_step_size=3, lr_range_test_staircase=True)
    assert curve(schedule, 9) == [0.5] * 3 + [1.0] * 3 + [1.5] * 3


def test_the_optimizer_starts_at_min_lr_whatever_its_own_lr_was() -> None:
    optimizer = sgd(lr=3.0)
    LRRangeTest(optimizer, 0.5)
    assert lrs(optimizer) == [0.5]


def test_momentum_is_left_alone() -> None:
    optimizer = adamw()
    schedule = LRRangeTest(optimizer, 0.5)
    schedule.step()
    assert schedule.momentum_at(3) is None
    assert momenta(optimizer) == [0.9]


def test_exponential_growth_multiplies_by_the_same_factor_at_every_step_and_ends_at_max_lr() -> None:
    schedule = LRRangeTest(sgd(), 1e-3, mode="exponential", max_lr=1.0, num_steps=3)
    assert curve(schedule, 6) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0, 1.0, 1.0], rel=1e-14)


def test_exponential_growth_keeps_the_ratio_of_the_groups_and_the_largest_reaches_max_lr() -> None:
    schedule = LRRangeTest(adamw(0.1, 0.1), [0.01, 0.04], mode="exponential", max_lr=4.0, num_steps=10)
    assert schedule.lr_at(10) == pytest.approx([1.0, 4.0], rel=1e-14)
    assert schedule.lr_at(5) == pytest.approx([0.1, 0.4], rel=1e-14)


@pytest.mark.parametrize("given", [{"max_lr": 1.0}, {"num_steps": 10}])
def test_the_ends_of_exponential_growth_mean_nothing_in_linear_growth(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(given))} needs mode='exponential'"):
        LRRangeTest(sgd(), 0.1, **given)
