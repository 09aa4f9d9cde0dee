from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched.schedulers import OneCycle
from tests.kit.schedules import adamw, lrs, momenta, sgd

CYCLE: dict[str, Any] = {"cycle_min_lr": 0.0, "cycle_max_lr": 1.0, "cycle_first_step_size": 4}


def one_cycle(**changes: Any) -> OneCycle:
    return OneCycle(sgd(), **{**CYCLE, **changes})


def lr_curve(schedule: OneCycle, steps: int) -> list[float]:
    return [schedule.lr_at(step)[0] for step in range(steps)]


def momentum_curve(schedule: OneCycle, steps: int) -> list[float]:
    return [schedule.momentum_at(step)[0] for step in range(steps)]


def test_the_first_five_values() -> None:
    schedule = one_cycle()
    assert lr_curve(schedule, 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert momentum_curve(schedule, 5) == pytest.approx([0.9, 0.875, 0.85, 0.825, 0.8], rel=1e-15)


def test_the_optimizer_starts_at_the_low_lr_and_the_high_momentum() -> None:
    optimizer = adamw(3.0, betas=(0.5, 0.77))
    OneCycle(optimizer, 0.1, 1.0)
    assert lrs(optimizer) == [0.1]
    assert momenta(optimizer) == [0.9]


@given(
    low=st.floats(0, 1),
    high=st.floats(1, 10),
    low_momentum=st.floats(0, 0.5),
    high_momentum=st.floats(0.5, 0.99),
    first=st.integers(1, 300),
    second=st.integers(1, 300),
    stairs=st.integers(0, 20),
)
def test_the_ends_are_reached_exactly(
    low: float, high: float, low_momentum: float, high_momentum: float, first: int, second: int, stairs: int
) -> None:
    schedule = one_cycle(
        cycle_min_lr=low,
        cycle_max_lr=high,
        cycle_first_step_size=first,
        cycle_second_step_size=second,
        cycle_first_stair_count=stairs,
        cycle_min_mom=low_momentum,
        cycle_max_mom=high_momentum,
    )
    assert [schedule.lr_at(step) for step in (0, first, first + second)] == [[low], [high], [low]]
    momentum = [schedule.momentum_at(step) for step in (0, first, first + second)]
    assert momentum == [[high_momentum], [low_momentum], [high_momentum]]


def test_stairs_are_flat_and_touch_the_top() -> None:
    schedule = one_cycle(cycle_first_stair_count=2, cycle_second_stair_count=1)
    assert lr_curve(schedule, 9) == [0.0, 0.0, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_second_half_is_like_the_first_unless_it_is_given() -> None:
    assert one_cycle(cycle_first_stair_count=3).hyperparameters["cycle_second_step_size"] == 4
    assert one_cycle(cycle_first_stair_count=3).hyperparameters["cycle_second_stair_count"] == 3
    assert lr_curve(one_cycle(cycle_second_step_size=2), 8) == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]


def test_momentum_is_inverse_to_the_lr_throughout_the_cycle() -> None:
    schedule = one_cycle(cycle_first_step_size=7, cycle_second_step_size=13, cycle_min_mom=0.2, cycle_max_mom=0.7)
    for step in range(21):
        (lr,), (momentum,) = schedule.lr_at(step), schedule.momentum_at(step)
        assert lr + (momentum - 0.2) / 0.5 == pytest.approx(1.0, rel=1e-12)


def test_after_the_cycle_lr_and_momentum_decay() -> None:
    schedule = one_cycle(cycle_min_lr=0.5, decay_lr_rate=1.0, decay_mom_rate=0.05, decay_step_size=2)
    assert [schedule.lr_at(step)[0] for step in (8, 10, 12, 14)] == pytest.approx(
        [0.5, 0.25, 0.5 / 3, 0.125], rel=1e-15
    )
    assert [schedule.momentum_at(step)[0] for step in (8, 10)] == pytest.approx([0.9, 0.945], rel=1e-15)


@pytest.mark.parametrize("off", [{"decay_step_size": 0}, {"decay_lr_rate": 0.0, "decay_mom_rate": 0.0}])
def test_without_a_rate_or_a_step_size_nothing_decays(off: dict[str, float]) -> None:
    schedule = one_cycle(
        **{"cycle_min_lr": 0.5, "decay_lr_rate": 1.0, "decay_mom_rate": 1.0, "decay_step_size": 2, **off}
    )
    assert schedule.lr_at(100) == [0.5]
    assert schedule.momentum_at(100) == [0.9]


def test_growing_momentum_stops_in_all_groups_when_the_largest_reaches_its_cap() -> None:
    schedule = OneCycle(
        adamw(0.1, 0.1), **CYCLE, cycle_min_mom=0.1, cycle_max_mom=[0.9, 0.45], decay_mom_rate=1.0, decay_step_size=1
    )
    assert schedule.momentum_at(1000) == pytest.approx([0.999, 0.4995], rel=1e-15)


def test_a_huge_decay_rate_overflows_into_no_error() -> None:
    schedule = one_cycle(decay_lr_rate=1e308, decay_mom_rate=1e308, decay_step_size=1)
    assert schedule.lr_at(1000) == [0.0]
    assert schedule.momentum_at(1000) == [pytest.approx(0.999)]


def test_cycle_momentum_false_leaves_momentum_alone() -> None:
    schedule = one_cycle(cycle_momentum=False, cycle_min_mom=0.1, cycle_max_mom=0.2)
    schedule.step()
    assert schedule.momentum_at(0) is None
    assert momenta(schedule.optimizer) == [0.9]


def test_each_group_has_its_own_range() -> None:
    schedule = OneCycle(adamw(0.1, 0.1), [0.0, 1.0], [2.0, 3.0], cycle_first_step_size=2, cycle_min_mom=[0.5, 0.6])
    assert [schedule.lr_at(step) for step in (0, 1, 2)] == [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    assert schedule.momentum_at(2) == [0.5, 0.6]


@pytest.mark.parametrize("decay_step_size", [0, 2])
def test_cycle_momentum_false_leaves_momentum_alone_after_the_cycle_too(decay_step_size: int) -> None:
    schedule = one_cycle(cycle_momentum=False, decay_step_size=decay_step_size, decay_mom_rate=1.0)
    assert [schedule.momentum_at(step) for step in (8, 9, 100)] == [None] * 3


def test_the_length_and_how_much_of_it_a_preview_shows() -> None:
    parameters = {"cycle_first_step_size": 4, "cycle_second_step_size": 6, "decay_step_size": 5}
    assert OneCycle.length(parameters) == (["cycle_first_step_size", "cycle_second_step_size"], 10)
    assert OneCycle.preview_steps(parameters) == 20


@pytest.mark.parametrize(("size", "rate", "low"), [(0, 0.0, True), (0, 1.0, True), (5, 0.0, True), (5, 1.0, False)])
def test_the_cycle_ends_low_unless_a_decay_follows(size: int, rate: float, low: bool) -> None:
    assert OneCycle.ends_low({"decay_step_size": size, "decay_lr_rate": rate}) is low
