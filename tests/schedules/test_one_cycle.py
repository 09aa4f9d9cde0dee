"""1Cycle: what its rows in the table of values do not say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched.optim.schedulers import OneCycle
from lightning_lrsched.schedules.one_cycle import Cycle
from tests.kit.schedules import adamw, sgd

CYCLE: dict[str, Any] = {"cycle_min_lr": 0.0, "cycle_max_lr": 1.0, "cycle_first_step_size": 4}


def one_cycle(**changes: Any) -> OneCycle:
    return OneCycle(sgd(), **{**CYCLE, **changes})


ends = {
    "low": st.floats(0, 1),
    "high": st.floats(1, 10),
    "low_mom": st.floats(0, 0.5),
    "high_mom": st.floats(0.5, 0.99),
}


@given(**ends, first=st.integers(1, 300), second=st.integers(1, 300), stairs=st.integers(0, 20))
def test_the_ends_are_reached_exactly(
    low: float, high: float, low_mom: float, high_mom: float, first: int, second: int, stairs: int
) -> None:
    lengths = {"cycle_first_step_size": first, "cycle_second_step_size": second, "cycle_first_stair_count": stairs}
    moms = {"cycle_min_mom": low_mom, "cycle_max_mom": high_mom}
    schedule = one_cycle(cycle_min_lr=low, cycle_max_lr=high, **lengths, **moms)
    assert [schedule.lr_at(step) for step in (0, first, first + second)] == [[low], [high], [low]]
    assert [schedule.momentum_at(step) for step in (0, first, first + second)] == [[high_mom], [low_mom], [high_mom]]


def test_momentum_is_inverse_to_the_lr_throughout_the_cycle() -> None:
    schedule = one_cycle(cycle_first_step_size=7, cycle_second_step_size=13, cycle_min_mom=0.2, cycle_max_mom=0.7)
    for step in range(21):
        values = schedule.values_at(step)
        assert values["lr"][0] + (values["momentum"][0] - 0.2) / 0.5 == pytest.approx(1.0, rel=1e-12)


def test_the_second_half_is_like_the_first_unless_it_is_given() -> None:
    made = one_cycle(cycle_first_stair_count=3)
    assert (made.schedule.cycle_second_step_size, made.schedule.cycle_second_stair_count) == (4, 3)


def test_growing_momentum_stops_in_all_groups_when_the_largest_reaches_its_cap() -> None:
    growing: dict[str, Any] = {"cycle_min_mom": 0.1, "decay_mom_rate": 1.0, "decay_step_size": 1}
    schedule = OneCycle(adamw(0.1, 0.1), **CYCLE, **growing, cycle_max_mom=[0.9, 0.45])
    assert schedule.momentum_at(1000) == pytest.approx([0.999, 0.4995], rel=1e-15)


def test_a_huge_decay_rate_overflows_into_no_error() -> None:
    schedule = one_cycle(decay_lr_rate=1e308, decay_mom_rate=1e308, decay_step_size=1)
    assert (schedule.lr_at(1000), schedule.momentum_at(1000)) == ([0.0], [pytest.approx(0.999)])


@pytest.mark.parametrize("decay_step_size", [0, 2])
def test_cycle_momentum_false_leaves_momentum_alone(decay_step_size: int) -> None:
    schedule = one_cycle(cycle_momentum=False, decay_step_size=decay_step_size, decay_mom_rate=1.0)
    assert [schedule.momentum_at(step) for step in (0, 8, 9, 100)] == [None] * 4


@pytest.mark.parametrize(("size", "rate", "low"), [(0, 0.0, True), (0, 1.0, True), (5, 0.0, True), (5, 1.0, False)])
def test_length_preview_and_whether_it_ends_low(size: int, rate: float, low: bool) -> None:
    cycle = Cycle.parse({**CYCLE, "cycle_second_step_size": 6, "decay_step_size": size, "decay_lr_rate": rate})
    assert cycle.length == (["cycle_first_step_size", "cycle_second_step_size"], 10)
    assert (cycle.preview_steps, cycle.ends_low) == (10 + 2 * size, low)
