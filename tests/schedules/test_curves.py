from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched.schedules import curves

sizes = st.integers(1, 500)
steps = st.integers(0, 2000)


@pytest.mark.parametrize(
    ("step", "staircase", "factor"),
    [
        (0, False, 1.0),
        (3, False, 2.5),
        (4, False, 3.0),
        (8, False, 5.0),
        (3, True, 1.0),
        (4, True, 3.0),
        (7, True, 3.0),
    ],
)
def test_linear_growth(step: int, staircase: bool, factor: float) -> None:
    assert curves.linear_growth(step, 4, 2.0, staircase) == factor


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (1, 10.0), (2, 100.0), (3, 100.0)])
def test_exponential_growth_ends_at_num_steps(step: int, factor: float) -> None:
    assert curves.exponential_growth(step, 2, 100.0) == pytest.approx(factor, rel=1e-15)


@pytest.mark.parametrize(
    ("first_stairs", "second_stairs", "expected"),
    [
        (0, 0, [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0]),
        (2, 0, [0.0, 0.0, 0.5, 0.5, 1.0, 0.5, 0.0]),
        (0, 1, [0.0, 0.25, 0.5, 0.75, 1.0, 0.0, 0.0]),
        (1, 1, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_cycle_in_lines_and_stairs(first_stairs: int, second_stairs: int, expected: list[float]) -> None:
    assert [curves.cycle(step, 4, 2, first_stairs, second_stairs) for step in range(7)] == expected


@given(first=sizes, second=sizes, stairs=st.integers(0, 50))
def test_a_cycle_is_0_at_both_ends_and_1_at_the_top(first: int, second: int, stairs: int) -> None:
    at = [curves.cycle(step, first, second, stairs, stairs) for step in (0, first, first + second)]
    assert at == [0.0, 1.0, 0.0]


@given(first=sizes, second=sizes, stairs=st.integers(1, 50), step=steps)
def test_stairs_never_lie_above_the_straight_line(first: int, second: int, stairs: int, step: int) -> None:
    line = curves.cycle(step, first, second, 0, 0)
    assert line - 1 / stairs - 1e-9 <= curves.cycle(step, first, second, stairs, stairs) <= line + 1e-9


def test_reciprocal_decay_halves_after_one_step_size_at_rate_1() -> None:
    assert [curves.reciprocal_decay(step, 4, 1.0) for step in (0, 4, 12)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        ("log", [0.0, 0.0, 0.5, math.log(3) / math.log(4), 1.0, 1.0, 1.0]),
    ],
)
def test_warmup(shape: str, expected: list[float]) -> None:
    assert [curves.warmup(step, 4, shape) for step in range(7)] == expected


@pytest.mark.parametrize("shape", ["linear", "log"])
def test_a_warmup_of_no_steps_is_over_from_the_start(shape: str) -> None:
    assert [curves.warmup(step, 0, shape) for step in range(4)] == [1.0] * 4


def test_linear_decay_ends_one_step_after_the_total() -> None:
    assert [curves.linear_decay(step, 2, 6) for step in range(3, 10)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]


def test_cosine_decay_is_half_a_wave() -> None:
    assert [curves.cosine_decay(step, 2, 6) for step in (2, 4, 6, 7)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-16)


@given(step=steps, warmup_steps=st.integers(2, 500), total=sizes, shape=st.sampled_from(["linear", "log"]))
def test_fractions_lie_between_0_and_1(step: int, warmup_steps: int, total: int, shape: str) -> None:
    fractions = [curves.warmup(step, warmup_steps, shape)]
    if step > warmup_steps:
        fractions += [curves.linear_decay(step, warmup_steps, total), curves.cosine_decay(step, warmup_steps, total)]
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)


@given(warmup_steps=st.integers(2, 500), shape=st.sampled_from(["linear", "log"]))
def test_a_warmup_never_falls(warmup_steps: int, shape: str) -> None:
    values = [curves.warmup(step, warmup_steps, shape) for step in range(warmup_steps + 3)]
    assert values == sorted(values)
