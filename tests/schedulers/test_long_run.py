"""A long run: position by position the closed form, and no memory that grows."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.kit.schedules import NAMES, adamw, small

LENGTHS = [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", LENGTHS)
def test_many_steps_equal_the_closed_form(name: str, steps: int) -> None:
    optimizer = adamw()
    schedule, reference = small(name, optimizer), small(name, adamw())
    (group,) = optimizer.param_groups
    for step in range(1, steps + 1):
        schedule.step()
        if group["lr"] != reference.lr_at(step)[0]:
            pytest.fail(f"step {step}: {group['lr']} is not {reference.lr_at(step)[0]}")
    assert schedule.last_epoch == steps
    assert reference.momentum_at(steps) in (None, [group["betas"][0]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", LENGTHS)
def test_many_steps_take_no_more_memory_than_few(name: str, steps: int) -> None:
    schedule = small(name, adamw())

    def drive(times: int) -> int:
        for _ in range(times):
            schedule.step()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        after_few = drive(1000)
        after_many = drive(steps)
    finally:
        tracemalloc.stop()
    assert after_many - after_few < 2048
