from __future__ import annotations

from lightning_lrsched.schedulers import LRRangeTest
from tests.kit.schedules import adamw, lrs, momenta, sgd


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


def test_a_preview_shows_five_intervals() -> None:
    assert LRRangeTest.preview_steps({"lr_range_test_step_size": 7}) == 35
