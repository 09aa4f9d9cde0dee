"""Sweep: a range test in a plain loop, without a Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test import loss_reader
from lightning_lrsched.range_test.growth import ExponentialGrowth
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.sweep import Row, Sweep


def sweep_over(
    script: Callable[[int], float], micro_batches: int = 1, steps: int = 500, **settings: object
) -> tuple[RangeTestResult, list[Row], int]:
    """Run a sweep whose loss is what ``script(step)`` gives; return its result, its rows, and the steps made."""
    rows: list[Row] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    sweep = Sweep(SweepSettings(**settings), optimizer, rows.append)
    made = 0
    while sweep.stop_reason is None and made < steps:
        for micro_batch in range(micro_batches):
            sweep.add(torch.tensor(script(made) + micro_batch))
        optimizer.step()
        made += 1
        sweep.advance()
    return sweep.finish(), rows, made


def test_a_plain_loop_makes_and_records_num_steps():
    result, rows, made = sweep_over(lambda step: 2.0, num_steps=50, max_lr=1.0)
    assert made == len(result.steps) == len(rows) == 50
    assert result.lrs == pytest.approx([1e-6 * 10 ** (6 * step / 49) for step in range(50)])
    assert result.stop_reason == "num_steps"


def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches():
    result, _, _ = sweep_over(float, micro_batches=3, num_steps=5)
    assert result.losses == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("late", [False, True])
def test_a_verdict_counts_before_a_limit_and_nothing_after_it_is_recorded(monkeypatch, late):
    if late:
        monkeypatch.setattr(loss_reader, "_is_far", lambda loss: True)
    result, rows, made = sweep_over(lambda step: math.nan if step == 17 else 1.0, num_steps=20)
    assert made == (20 if late else 18)
    assert result.stop_reason == "non-finite loss"
    assert result.steps[-1] == rows[-1].step == 17


def test_skipped_steps_are_not_recorded_and_end_the_test_in_the_end():
    sweep = Sweep(SweepSettings(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
    skipped = 0
    while sweep.stop_reason is None:
        sweep.add(torch.tensor(1.0))
        assert not sweep.advance()
        sweep.skip()
        skipped += 1
    assert skipped == 20
    result = sweep.finish()
    assert (result.steps, result.stop_reason) == ([], "skipped steps")


def test_a_skipped_step_whose_loss_is_not_finite_ends_the_test_at_once():
    sweep = Sweep(SweepSettings(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
    sweep.add(torch.tensor(math.inf))
    sweep.advance()
    sweep.skip()
    assert sweep.stop_reason == "non-finite loss"


def test_the_schedule_is_given_back_at_the_end():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for _ in range(2):
        sweep = Sweep(SweepSettings(), optimizer)
        assert sweep.schedule.is_following
        sweep.finish()
        assert not sweep.schedule.is_following


def test_growth_stays_at_the_largest_lr():
    schedule = ExponentialGrowth(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0.01, 100.0, 2)
    assert [schedule.lr_at(step)[0] for step in range(4)] == pytest.approx([0.01, 0.1, 1.0, 1.0])
    assert schedule.hyperparameters == {"lr_range_test_min_lr": 0.01, "factor": 100.0, "last_step": 2}


def test_a_list_that_does_not_fit_the_param_groups_is_refused_and_the_optimizer_is_untouched():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="lr_range_test_min_lr lists 2 values, but the optimizer has 1 param group"):
        Sweep(SweepSettings(min_lr=[0.1, 0.2]), optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_an_optimizer_without_a_learning_rate_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="SGD has no learning rate to schedule"):
        Sweep(SweepSettings(), optimizer)
