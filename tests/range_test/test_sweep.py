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
from lightning_lrsched.schedules.length import Horizon


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


# Two sweeps -----------------------------------------------------------------------------------------------------------


def two_sweeps_over(
    script: Callable[[float], float], **settings: object
) -> tuple[RangeTestResult, list[Row], list[float]]:
    """Run the test of a loss that depends on the lr alone; return its result, its rows, and the lr when put back."""
    rows: list[Row] = []
    put_back_at: list[float] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    sweep = Sweep(SweepSettings(**settings), optimizer, rows.append)
    while sweep is not None:
        last = sweep
        while sweep.stop_reason is None:
            sweep.add(torch.tensor(script(optimizer.param_groups[0]["lr"])))
            optimizer.step()
            sweep.advance()
        sweep = sweep.fine(lambda: put_back_at.append(optimizer.param_groups[0]["lr"]))
    return last.finish(), rows, put_back_at


def explodes(lr: float) -> float:
    return 2.0 - min(lr, 0.01) * 100 if lr < 0.02 else 50.0


@pytest.mark.parametrize("late", [False, True])
def test_the_fine_sweep_goes_from_a_hundredth_to_three_times_the_lr_that_the_coarse_one_ended_at(monkeypatch, late):
    monkeypatch.setattr(loss_reader, "_is_far", lambda loss: late)
    result, rows, put_back_at = two_sweeps_over(explodes)
    coarse = result.coarse
    assert coarse.stop_reason == result.stop_reason == "diverged"
    assert coarse.coarse is None
    assert coarse.lrs == pytest.approx([1e-6 * 10 ** (7 * step / 99) for step in range(len(coarse.lrs))])
    end = coarse.lrs[-1]
    assert 0.02 < end < 0.05
    assert result.lrs == pytest.approx([end / 100 * 300 ** (step / 199) for step in range(len(result.lrs))])
    assert 0.02 < result.lrs[-1] < 0.025
    assert coarse.steps == list(range(len(coarse.lrs)))
    assert result.steps == list(range(len(result.lrs)))
    assert [row.step for row in rows] == list(range(len(coarse.lrs) + len(result.lrs)))
    assert len(put_back_at) == 1


def test_a_loss_that_does_not_explode_is_swept_around_the_last_lr_of_the_coarse_sweep():
    result, _, _ = two_sweeps_over(lambda lr: 1.0 / (1.0 + lr))
    assert (len(result.coarse.steps), len(result.steps)) == (100, 200)
    assert (result.coarse.stop_reason, result.stop_reason) == ("num_steps", "num_steps")
    assert (result.lrs[0], result.lrs[-1]) == pytest.approx((0.1, 30.0))


def test_after_fewer_than_ten_losses_the_fine_sweep_begins_at_a_lower_lr():
    result, _, _ = two_sweeps_over(lambda lr: math.nan if lr > 2e-6 else 1.0 - 1e5 * lr)
    assert (len(result.coarse.steps), result.coarse.stop_reason) == (6, "non-finite loss")
    assert result.lrs[0] == pytest.approx(result.coarse.lrs[-1] / 100)
    assert len(result.steps) > 100


def test_where_the_very_first_loss_is_not_finite_there_is_no_second_sweep():
    result, _, put_back_at = two_sweeps_over(lambda lr: math.nan)
    assert (result.steps, result.coarse, put_back_at) == ([0], None, [])
    with pytest.raises(ValueError, match="the very first loss was not finite"):
        result.suggestion()


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"mode": "exponential"}, 200), ({"min_lr": 1e-5}, 200), ({"max_lr": 1.0}, 200), ({"num_steps": 30}, 30),
        ({"mode": "linear"}, None), ({"linear": {"lr_range_test_step_size": 5}}, None), ({"by_validation": True}, 200),
        ({"divergence_factor": None}, 200),
    ],
)  # fmt: skip
def test_a_range_of_ones_own_is_one_sweep(given, steps):
    settings = SweepSettings(**given)
    assert not settings.then_fine
    assert settings.max_steps == steps


@pytest.mark.parametrize("given", [{}, {"smoothing": 0.5}, {"divergence_factor": 1.0}, {"linear": {"step": None}}])
def test_without_a_range_there_are_two_sweeps_also_with_a_stop_rule_of_ones_own(given):
    settings = SweepSettings(**given)
    assert settings.then_fine
    assert settings.max_steps == 300
    assert settings.resolved(Horizon.given(None, None)) == settings


def test_the_fine_sweep_keeps_smoothing_stop_rule_and_the_ratios_of_the_param_groups():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.02}])
    sweep = Sweep(SweepSettings(smoothing=0.0, divergence_factor=3.0), optimizer)
    while sweep.stop_reason is None:
        sweep.add(torch.tensor(1.0 - sweep.schedule.lr_at(sweep.finished)[0]))
        optimizer.step()
        sweep.advance()
    fine = sweep.fine(lambda: None)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.02])
    # A fall of 0.1, and a rise of less than three times as much, which with the default would be divergence.
    losses = [1.0] * 10 + [0.9] * 10 + [1.1] * 10
    for loss in losses:
        fine.add(torch.tensor(loss))
        optimizer.step()
        fine.advance()
    assert fine.stop_reason is None
    result = fine.finish()
    assert result.group_ratios == pytest.approx([1.0, 0.2])
    assert result.smoothed_losses == result.losses


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
