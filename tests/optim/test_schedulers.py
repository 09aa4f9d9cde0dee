"""One table of all schedules: parameters, positions, and the lr and momentum that follow from the formula by hand.

A new schedule is one row. Every value can be checked on paper; the tolerance is that of the last digits of a float.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
from torch.optim import SGD

import lightning_lrsched
from lightning_lrsched import VALID_LR_SCHEDULES
from tests.kit.schedules import parameter

Values = dict[int, float | list[float]]


class Row(NamedTuple):
    """The values of ``schedule`` at some positions: one number, or one number per param group."""

    schedule: str
    params: dict[str, Any]
    lr: Values
    momentum: Values | None = None
    """None: the schedule leaves momentum alone."""
    base_lrs: tuple[float, ...] = (1.0,)
    """The optimizer's lr in each param group."""


GROWTH: dict[str, Any] = {"lr_range_test_min_lr": 0.5, "lr_range_test_step_size": 4}
CYCLE: dict[str, Any] = {"cycle_min_lr": 1.0, "cycle_max_lr": 3.0, "cycle_first_step_size": 4}
TO_ONE: dict[str, Any] = {"warmup_min_lr": 0.0, "warmup_max_lr": 1.0, "warmup_num_steps": 4}
LINEAR: dict[str, Any] = {**TO_ONE, "warmup_type": "linear"}
LOG = {0: 0.0, 1: 0.0, 2: 0.5, 3: math.log(3) / math.log(4), 4: 1.0}
RATIO: dict[str, Any] = {"total_num_steps": 8, "warmup_num_steps": 4, "cos_min_ratio": 0.0}
STABLE: dict[str, Any] = {**LINEAR, "total_num_steps": 16, "decay_num_steps": 4}
WAVE = {4: 1.0, 5: (2 + math.sqrt(2)) / 4, 6: 0.5, 7: (2 - math.sqrt(2)) / 4, 8: 0.0, 9: 0.0, 50: 0.0}

ROWS = {
    # LRRangeTest -----------------------------------------------------------------------------------------------------
    "growth in a straight line": Row(
        "LRRangeTest", GROWTH, {0: 0.5, 1: 0.625, 2: 0.75, 3: 0.875, 4: 1.0, 5: 1.125, 8: 1.5, 100: 13.0}
    ),
    "growth three times as fast": Row(
        "LRRangeTest", {**GROWTH, "lr_range_test_step_rate": 3.0}, {0: 0.5, 1: 0.875, 4: 2.0, 8: 3.5}
    ),
    "growth in stairs": Row(
        "LRRangeTest",
        {**GROWTH, "lr_range_test_staircase": True},
        {0: 0.5, 3: 0.5, 4: 1.0, 7: 1.0, 8: 1.5, 11: 1.5, 12: 2.0},
    ),
    "growth from one lr per group": Row(
        "LRRangeTest",
        {**GROWTH, "lr_range_test_min_lr": [0.5, 0.1]},
        {0: [0.5, 0.1], 2: [0.75, 0.15], 4: [1.0, 0.2], 8: [1.5, 0.3]},
        base_lrs=(1.0, 2.0),
    ),
    "growth with DeepSpeed's defaults": Row("LRRangeTest", {}, {0: 0.001, 1000: 0.0015, 2000: 0.002, 4000: 0.003}),
    # OneCycle --------------------------------------------------------------------------------------------------------
    "a cycle, up and down": Row(
        "OneCycle",
        CYCLE,
        {0: 1.0, 1: 1.5, 2: 2.0, 3: 2.5, 4: 3.0, 5: 2.5, 6: 2.0, 7: 1.5, 8: 1.0, 9: 1.0, 50: 1.0},
        {0: 0.9, 1: 0.875, 2: 0.85, 4: 0.8, 6: 0.85, 8: 0.9, 9: 0.9, 50: 0.9},
    ),
    "a shorter second half": Row(
        "OneCycle",
        {**CYCLE, "cycle_second_step_size": 2},
        {0: 1.0, 2: 2.0, 4: 3.0, 5: 2.0, 6: 1.0, 7: 1.0},
        {0: 0.9, 2: 0.85, 4: 0.8, 5: 0.85, 6: 0.9, 7: 0.9},
    ),
    # The end of the cycle is the low end, also where it is the top: as DeepSpeed has it.
    "no second half": Row(
        "OneCycle", {**CYCLE, "cycle_second_step_size": 0}, {3: 2.5, 4: 1.0, 5: 1.0}, {3: 0.825, 4: 0.9, 5: 0.9}
    ),
    "no second half, the lr alone": Row(
        "OneCycle", {**CYCLE, "cycle_second_step_size": 0, "cycle_momentum": False}, {3: 2.5, 4: 1.0, 5: 1.0}
    ),
    "stairs in both halves": Row(
        "OneCycle",
        {**CYCLE, "cycle_first_stair_count": 2},
        {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0, 4: 3.0, 5: 2.0, 6: 2.0, 7: 1.0, 8: 1.0},
        {0: 0.9, 1: 0.9, 2: 0.85, 3: 0.85, 4: 0.8, 5: 0.85, 6: 0.85, 7: 0.9, 8: 0.9},
    ),
    "a straight first half, one stair in the second": Row(
        "OneCycle",
        {**CYCLE, "cycle_second_stair_count": 1},
        {0: 1.0, 1: 1.5, 3: 2.5, 4: 3.0, 5: 1.0, 8: 1.0},
        {0: 0.9, 1: 0.875, 3: 0.825, 4: 0.8, 5: 0.9, 8: 0.9},
    ),
    "stairs in the first half only": Row(
        "OneCycle",
        {**CYCLE, "cycle_first_stair_count": 1, "cycle_second_stair_count": 0},
        {0: 1.0, 3: 1.0, 4: 3.0, 5: 2.5, 8: 1.0},
        {0: 0.9, 3: 0.9, 4: 0.8, 5: 0.825, 8: 0.9},
    ),
    "decay after the cycle": Row(
        "OneCycle",
        {**CYCLE, "decay_step_size": 2, "decay_lr_rate": 1.0, "decay_mom_rate": 0.05},
        {7: 1.5, 8: 1.0, 9: 1 / 1.5, 10: 0.5, 12: 1 / 3, 14: 0.25},
        {7: 0.875, 8: 0.9, 9: 0.9225, 10: 0.945, 12: 0.99, 13: 0.999, 50: 0.999},
    ),
    "decay of the lr alone": Row(
        "OneCycle",
        {**CYCLE, "decay_step_size": 4, "decay_lr_rate": 0.5},
        {8: 1.0, 12: 1 / 1.5, 16: 0.5},
        {8: 0.9, 12: 0.9, 16: 0.9},
    ),
    "no decay without its step size": Row(
        "OneCycle",
        {**CYCLE, "decay_lr_rate": 1.0, "decay_mom_rate": 1.0},
        {8: 1.0, 9: 1.0, 50: 1.0},
        {8: 0.9, 9: 0.9, 50: 0.9},
    ),
    "a cycle of the lr alone": Row("OneCycle", {**CYCLE, "cycle_momentum": False}, {0: 1.0, 2: 2.0, 4: 3.0, 8: 1.0}),
    "a cycle per group": Row(
        "OneCycle",
        {
            "cycle_min_lr": [0.0, 1.0],
            "cycle_max_lr": [1.0, 5.0],
            "cycle_first_step_size": 2,
            "cycle_min_mom": [0.5, 0.25],
            "cycle_max_mom": 0.75,
        },
        {0: [0.0, 1.0], 1: [0.5, 3.0], 2: [1.0, 5.0], 3: [0.5, 3.0], 4: [0.0, 1.0]},
        {0: [0.75, 0.75], 1: [0.625, 0.5], 2: [0.5, 0.25], 4: [0.75, 0.75]},
        base_lrs=(1.0, 1.0),
    ),
    "a cycle with DeepSpeed's defaults": Row(
        "OneCycle",
        {"cycle_min_lr": 1.0, "cycle_max_lr": 3.0},
        {0: 1.0, 1000: 2.0, 2000: 3.0, 3000: 2.0, 4000: 1.0, 5000: 1.0},
        {0: 0.9, 1000: 0.85, 2000: 0.8, 3000: 0.85, 4000: 0.9, 5000: 0.9},
    ),
    "decay of no rate": Row("OneCycle", {**CYCLE, "decay_step_size": 4}, {8: 1.0, 12: 1.0}, {8: 0.9, 12: 0.9}),
    # WarmupLR --------------------------------------------------------------------------------------------------------
    "a logarithmic warmup": Row("WarmupLR", TO_ONE, {**LOG, 5: 1.0, 50: 1.0}),
    "a linear warmup": Row("WarmupLR", LINEAR, {0: 0.0, 1: 0.0, 2: 0.25, 3: 0.5, 4: 0.75, 5: 1.0, 6: 1.0, 50: 1.0}),
    "a warmup from another low end": Row(
        "WarmupLR", {**LINEAR, "warmup_min_lr": 0.5, "warmup_max_lr": 2.5}, {0: 0.5, 1: 0.5, 2: 1.0, 4: 2.0, 5: 2.5}
    ),
    "a warmup of one step takes two": Row("WarmupLR", {**LINEAR, "warmup_num_steps": 1}, {1: 0.0, 2: 0.5, 3: 1.0}),
    "no warmup": Row("WarmupLR", {**TO_ONE, "warmup_num_steps": 0}, {0: 1.0, 1: 1.0, 2: 1.0}),
    "a warmup to each group's own lr": Row(
        "WarmupLR",
        {**LINEAR, "warmup_max_lr": None},
        {0: [0.0, 0.0], 3: [0.05, 0.15], 5: [0.1, 0.3]},
        base_lrs=(0.1, 0.3),
    ),
    "a warmup per group": Row(
        "WarmupLR",
        {**LINEAR, "warmup_min_lr": [0.0, 1.0], "warmup_max_lr": [1.0, 2.0]},
        {0: [0.0, 1.0], 3: [0.5, 1.5], 5: [1.0, 2.0]},
        base_lrs=(0.1, 0.3),
    ),
    "a warmup with DeepSpeed's defaults": Row(
        "WarmupLR", {}, {0: 0.0, 1: 0.0, 100: 0.002 / 3, 1000: 0.001, 2000: 0.001}, base_lrs=(0.001,)
    ),
    # WarmupDecayLR ---------------------------------------------------------------------------------------------------
    "a warmup, then a line down": Row(
        "WarmupDecayLR",
        {**LINEAR, "total_num_steps": 8},
        {0: 0.0, 1: 0.0, 4: 0.75, 5: 1.0, 6: 0.75, 7: 0.5, 8: 0.25, 9: 0.0, 10: 0.0, 50: 0.0},
    ),
    "a logarithmic warmup, then a line down": Row(
        "WarmupDecayLR", {**TO_ONE, "total_num_steps": 8}, {**LOG, 5: 1.0, 6: 0.75, 9: 0.0}
    ),
    "a line down to another low end": Row(
        "WarmupDecayLR",
        {**LINEAR, "total_num_steps": 8, "warmup_min_lr": 0.5, "warmup_max_lr": 1.5},
        {0: 0.5, 5: 1.5, 6: 1.25, 7: 1.0, 9: 0.5, 50: 0.5},
    ),
    "a line down from the start": Row(
        "WarmupDecayLR",
        {**TO_ONE, "total_num_steps": 4, "warmup_num_steps": 0},
        {0: 1.0, 1: 1.0, 2: 0.75, 3: 0.5, 4: 0.25, 5: 0.0, 6: 0.0},
    ),
    "a line down after a warmup of the whole length": Row(
        "WarmupDecayLR", {**LINEAR, "total_num_steps": 4}, {4: 0.75, 5: 0.0, 6: 0.0}
    ),
    "a line down with DeepSpeed's defaults": Row(
        "WarmupDecayLR",
        {"total_num_steps": 2000},
        {0: 0.0, 100: 0.002 / 3, 1000: 0.001, 1001: 0.001, 1501: 0.0005, 2001: 0.0},
        base_lrs=(0.001,),
    ),
    # WarmupCosineLR --------------------------------------------------------------------------------------------------
    "a warmup, then a wave down": Row("WarmupCosineLR", RATIO, {**LOG, **WAVE}),
    "a linear warmup, then a wave down": Row(
        "WarmupCosineLR", {**RATIO, "warmup_type": "linear"}, {0: 0.0, 1: 0.0, 2: 0.25, 4: 0.75, 5: WAVE[5], 8: 0.0}
    ),
    "a wave between other ratios": Row(
        "WarmupCosineLR",
        {**RATIO, "warmup_min_ratio": 0.5, "cos_min_ratio": 0.25},
        {0: 0.5, 1: 0.5, 2: 0.75, 4: 1.0, 6: 0.625, 8: 0.25, 50: 0.25},
    ),
    "a wave per group": Row(
        "WarmupCosineLR", RATIO, {0: [0.0, 0.0], 2: [0.05, 0.15], 4: [0.1, 0.3], 6: [0.05, 0.15]}, base_lrs=(0.1, 0.3)
    ),
    "a wave down from the start": Row(
        "WarmupCosineLR",
        {**RATIO, "total_num_steps": 4, "warmup_num_steps": 0},
        {step - 4: ratio for step, ratio in WAVE.items()},
    ),
    "a wave down with DeepSpeed's defaults": Row(
        "WarmupCosineLR", {"total_num_steps": 2000}, {0: 0.0, 100: 2 / 3, 1000: 1.0, 1500: 0.50005, 2000: 0.0001}
    ),
    # WarmupStableDecayLR ---------------------------------------------------------------------------------------------
    "a warmup, a stable part, a line down": Row(
        "WarmupStableDecayLR",
        STABLE,
        {0: 0.0, 1: 0.0, 2: 0.25, 4: 0.75, 5: 1.0, 9: 1.0, 12: 1.0, 13: 0.75, 14: 0.5, 15: 0.25, 16: 0.0, 99: 0.0},
    ),
    "... down along a cosine": Row(
        "WarmupStableDecayLR", {**STABLE, "decay_type": "cosine"}, {12: 1.0, 13: WAVE[5], 14: 0.5, 15: WAVE[7], 16: 0.0}
    ),
    "... down by 1 - sqrt": Row(
        "WarmupStableDecayLR", {**STABLE, "decay_type": "1-sqrt"}, {12: 1.0, 13: 0.5, 15: 1 - math.sqrt(3) / 2, 16: 0.0}
    ),
    "... down exponentially": Row(
        "WarmupStableDecayLR",
        {**STABLE, "decay_type": "exponential"},
        {12: 1.0, 14: math.sqrt(2) - 1, 15: 2**0.25 - 1, 16: 0.0, 17: 0.0},
    ),
    "a line down to a low end of its own, per group": Row(
        "WarmupStableDecayLR",
        {**STABLE, "warmup_min_lr": 0.5, "warmup_max_lr": [1.5, 2.5], "decay_min_lr": [0.1, 0.5]},
        {0: [0.5, 0.5], 3: [1.0, 1.5], 12: [1.5, 2.5], 14: [0.8, 1.5], 16: [0.1, 0.5], 50: [0.1, 0.5]},
        base_lrs=(1.0, 1.0),
    ),
    "a stable part of each group's own lr": Row(
        "WarmupStableDecayLR",
        {**STABLE, "warmup_max_lr": None, "warmup_num_steps": 0},
        {0: [0.1, 0.3], 12: [0.1, 0.3], 14: [0.05, 0.15], 16: [0.0, 0.0]},
        base_lrs=(0.1, 0.3),
    ),
    "a stable part without end": Row(
        "WarmupStableDecayLR", {**STABLE, "decay_num_steps": 0}, {0: 0.0, 4: 0.75, 5: 1.0, 16: 1.0, 1000: 1.0}
    ),
    "a stable part, then a fifth": Row(
        "WarmupStableDecayLR",
        {"total_num_steps": 2000, "warmup_type": "linear"},
        {0: 0.0, 501: 0.0005, 1001: 0.001, 1600: 0.001, 1700: 0.00075, 2000: 0.0},
        base_lrs=(0.001,),
    ),
    "a decay as long as all that the warmup leaves": Row(
        "WarmupStableDecayLR", {**STABLE, "decay_num_steps": 12}, {3: 0.5, 4: 1.0, 10: 0.5, 13: 0.25, 16: 0.0}
    ),
    # PhasedLR --------------------------------------------------------------------------------------------------------
    "a line up, a wait, a wave down": Row(
        "PhasedLR",
        {"phases": [{"steps": 4, "lr": 1.0}, {"steps": 3}, {"steps": 4, "lr": 0.0, "shape": "cosine"}]},
        {0: 0.0, 1: 0.25, 3: 0.75, 4: 1.0, 5: 1.0, 7: 1.0, 8: WAVE[5], 9: 0.5, 10: WAVE[7], 11: 0.0, 99: 0.0},
    ),
    "lr and momentum in four phases": Row(
        "PhasedLR",
        {
            "phases": [
                {"steps": 2, "lr": 3.0, "momentum": 0.5},
                {"steps": 4, "lr": 1.0, "shape": "1-sqrt"},
                {"steps": 0, "lr": 2.0},
                {"steps": 4, "momentum": 0.9, "shape": "exponential"},
            ],
            "start_lr": 1.0,
            "start_momentum": 0.9,
        },
        {0: 1.0, 1: 2.0, 2: 3.0, 3: 2.0, 5: 3 - math.sqrt(3), 6: 2.0, 8: 2.0, 10: 2.0, 50: 2.0},
        {0: 0.9, 1: 0.7, 2: 0.5, 5: 0.5, 6: 0.5, 8: 0.9 - 0.4 * (math.sqrt(2) - 1), 10: 0.9, 50: 0.9},
    ),
    "phases with one value per group, and multiples of each group's own": Row(
        "PhasedLR",
        {
            "phases": [
                {"steps": 2, "lr": {"ratio": 1.0}},
                {"steps": 2, "lr": [0.5, 1.0]},
                {"steps": 2, "lr": {"ratio": 0.1}},
            ],
            "start_lr": {"ratio": 0.5},
        },
        {0: [0.5, 1.0], 1: [0.75, 1.5], 2: [1.0, 2.0], 3: [0.75, 1.5], 4: [0.5, 1.0], 5: [0.3, 0.6], 6: [0.1, 0.2]},
        base_lrs=(1.0, 2.0),
    ),
}
rows = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])


def build(row: Row, **changes: Any) -> Any:
    groups = [{"params": [parameter()], "lr": lr} for lr in row.base_lrs]
    return getattr(lightning_lrsched, row.schedule)(SGD(groups, lr=1.0, momentum=0.95), **row.params, **changes)


def close(expected: float | list[float]) -> Any:
    values = expected if isinstance(expected, list) else [expected]
    return pytest.approx(values, rel=1e-12, abs=0)


@rows
def test_the_lr_at_a_position(row: Row) -> None:
    schedule = build(row)
    for step, lr in row.lr.items():
        assert schedule.lr_at(step) == close(lr), step


@rows
def test_the_momentum_at_a_position(row: Row) -> None:
    schedule = build(row)
    for step, momentum in (row.momentum or {}).items():
        assert schedule.momentum_at(step) == close(momentum), step
    if row.momentum is None:
        assert [schedule.momentum_at(step) for step in row.lr] == [None] * len(row.lr)


@rows
def test_the_optimizer_holds_them_after_so_many_steps(row: Row) -> None:
    schedule = build(row)
    groups = schedule.optimizer.param_groups
    momenta = dict.fromkeys(row.lr, 0.95) if row.momentum is None else row.momentum
    for step in range(max(*row.lr, *momenta) + 1):
        if step:
            schedule.step()
        if step in row.lr:
            assert [group["lr"] for group in groups] == close(row.lr[step]), step
            assert schedule.get_last_lr() == [group["lr"] for group in groups]
        if step in momenta:
            expected = momenta[step]
            many = expected if isinstance(expected, list) else [expected] * len(groups)
            assert [group["momentum"] for group in groups] == close(many), step


@rows
def test_a_schedule_that_begins_at_a_position_writes_its_values_at_once(row: Row) -> None:
    for step, lr in row.lr.items():
        schedule = build(row, last_batch_iteration=step - 1)
        assert schedule.get_last_lr() == close(lr), step
        assert (schedule.last_epoch, schedule.last_batch_iteration) == (step, step - 1)


def test_every_schedule_has_rows() -> None:
    assert {row.schedule for row in ROWS.values()} == set(VALID_LR_SCHEDULES)
