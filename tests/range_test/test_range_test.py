"""RangeTestRun: a range test in the plainest of loops, from its first step to its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test import loss_watch
from lightning_lrsched.range_test.range_test import RangeTestRun
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.sweep import ExponentialGrowth, Row
from lightning_lrsched.schedulers.durations import RunLength


def sgd(*lrs: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1)


class Driven:
    """A test whose loss is ``script(step, lr)``, driven to its end, and what its driver saw of it."""

    def __init__(
        self, script: Callable[[int, float], float], optimizer: Any = None, micro_batches: int = 1, **settings: Any
    ) -> None:
        self.calls: list[str] = []
        self.rows: list[Row] = []
        self.steps = 0
        optimizer = optimizer or sgd()
        run = RangeTestRun(SweepSettings(**settings), optimizer, self, on_row=self.rows.append)
        while run.verdict is None and self.steps < 500:
            run.start_batch()
            for micro_batch in range(micro_batches):
                run.sweep.add(torch.tensor(script(self.steps, optimizer.param_groups[0]["lr"]) + micro_batch))
            optimizer.step()
            self.steps += 1
            run.sweep.advance()
        self.schedule = run.sweep.schedule
        self.result: RangeTestResult = run.end()

    def mark(self) -> None:
        self.calls.append("mark")

    def rewind(self) -> None:
        self.calls.append("rewind")

    def restore(self) -> None:
        self.calls.append("restore")


# One sweep ------------------------------------------------------------------------------------------------------------


def test_num_steps_are_made_and_recorded_and_everything_is_put_back():
    test = Driven(lambda step, lr: 2.0, num_steps=50, max_lr=1.0)
    assert test.steps == len(test.result.steps) == len(test.rows) == 50
    assert test.result.lrs == pytest.approx([1e-6 * 10 ** (6 * step / 49) for step in range(50)])
    assert test.result.stop_reason == "num_steps"
    assert test.calls == ["mark", "restore"]
    assert not test.schedule.is_following


def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches():
    assert Driven(lambda step, lr: step, micro_batches=3, num_steps=5).result.losses == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("late", [False, True])
def test_a_verdict_counts_before_a_limit_and_nothing_after_it_is_recorded(monkeypatch, late):
    monkeypatch.setattr(loss_watch, "_is_far", lambda loss: late)
    test = Driven(lambda step, lr: math.nan if step == 17 else 1.0, num_steps=20)
    assert test.steps == (20 if late else 18)
    assert test.result.stop_reason == "non-finite loss"
    assert test.result.steps[-1] == test.rows[-1].step == 17


@pytest.mark.parametrize(("loss", "skipped", "reason"), [(1.0, 20, "skipped steps"), (math.inf, 1, "non-finite loss")])
def test_skipped_steps_are_not_recorded_and_end_the_test_in_the_end(loss, skipped, reason):
    made, run = 0, RangeTestRun(SweepSettings(), sgd(), Driven(lambda step, lr: 1.0, num_steps=1))
    while run.verdict is None:
        run.start_batch()
        run.sweep.add(torch.tensor(loss))
        assert not run.sweep.advance()
        run.sweep.skip()
        made += 1
    assert made == skipped
    assert (run.end().steps, run.result.stop_reason) == ([], reason)


# Two sweeps -----------------------------------------------------------------------------------------------------------


def explodes(step: int, lr: float) -> float:
    return 2.0 - min(lr, 0.01) * 100 if lr < 0.02 else 50.0


@pytest.mark.parametrize("late", [False, True])
def test_the_fine_sweep_goes_from_a_hundredth_to_three_times_the_lr_that_the_coarse_one_ended_at(monkeypatch, late):
    monkeypatch.setattr(loss_watch, "_is_far", lambda loss: late)
    test = Driven(explodes)
    result, coarse = test.result, test.result.coarse
    assert test.calls == ["mark", "rewind", "restore"]
    assert coarse.stop_reason == result.stop_reason == "diverged"
    assert coarse.coarse is None
    assert coarse.lrs == pytest.approx([1e-6 * 10 ** (7 * step / 99) for step in range(len(coarse.lrs))])
    end = coarse.lrs[-1]
    assert 0.02 < end < 0.05
    assert result.lrs == pytest.approx([end / 100 * 300 ** (step / 199) for step in range(len(result.lrs))])
    assert 0.02 < result.lrs[-1] < 0.025
    assert coarse.steps == list(range(len(coarse.lrs)))
    assert result.steps == list(range(len(result.lrs)))
    assert [row.step for row in test.rows] == list(range(len(coarse.lrs) + len(result.lrs)))


def test_a_loss_that_does_not_explode_is_swept_around_the_last_lr_of_the_coarse_sweep():
    result = Driven(lambda step, lr: 1.0 / (1.0 + lr)).result
    assert (len(result.coarse.steps), len(result.steps)) == (100, 200)
    assert (result.coarse.stop_reason, result.stop_reason) == ("num_steps", "num_steps")
    assert (result.lrs[0], result.lrs[-1]) == pytest.approx((0.1, 30.0))


def test_after_fewer_than_ten_losses_the_fine_sweep_begins_at_a_lower_lr():
    result = Driven(lambda step, lr: math.nan if lr > 2e-6 else 1.0 - 1e5 * lr).result
    assert (len(result.coarse.steps), result.coarse.stop_reason) == (6, "non-finite loss")
    assert result.lrs[0] == pytest.approx(result.coarse.lrs[-1] / 100)
    assert len(result.steps) > 100


def test_where_the_very_first_loss_is_not_finite_there_is_no_second_sweep():
    test = Driven(lambda step, lr: math.nan)
    assert (test.result.steps, test.result.coarse, test.calls) == ([0], None, ["mark", "restore"])
    with pytest.raises(ValueError, match="the very first loss was not finite"):
        test.result.suggestion()


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 300), ({"smoothing": 0.5}, 300), ({"divergence_factor": 1.0}, 300), ({"mode": "exponential"}, 200),
        ({"lr_range_test_min_lr": 1e-5}, 200), ({"max_lr": 1.0}, 200), ({"num_steps": 30}, 30),
        ({"mode": "linear"}, None), ({"lr_range_test_step_size": 5}, None), ({"by_validation": True}, 200),
        ({"divergence_factor": None}, 200),
    ],
)  # fmt: skip
def test_a_range_of_ones_own_is_one_sweep_and_without_one_there_are_two(given, steps):
    settings = SweepSettings(**given)
    assert settings.then_fine is (steps == 300)
    assert settings.max_steps == steps
    assert settings.resolved(RunLength.given(None, None)) == settings


def test_the_fine_sweep_keeps_smoothing_stop_rule_and_the_ratios_of_the_param_groups():
    # A fall of 0.1 in the fine sweep, and a rise of less than three times as much: with the default, divergence.
    def script(step: int, lr: float) -> float:
        return 1.0 - lr if step < 100 else (1.0, 0.9, 1.1)[min(2, (step - 100) // 10)]

    result = Driven(script, sgd(0.1, 0.02), smoothing=0.0, divergence_factor=3.0).result
    assert result.stop_reason == "num_steps"
    assert result.group_ratios == pytest.approx([1.0, 0.2])
    assert result.smoothed_losses == result.losses


# Growth ---------------------------------------------------------------------------------------------------------------


def test_growth_stays_at_the_largest_lr():
    schedule = ExponentialGrowth(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0.01, 100.0, 2)
    assert [schedule.lr_at(step)[0] for step in range(4)] == pytest.approx([0.01, 0.1, 1.0, 1.0])
    assert schedule.hyperparameters == {"lr_range_test_min_lr": 0.01, "factor": 100.0, "last_step": 2}


def test_what_cannot_be_swept_is_refused_and_the_optimizer_is_untouched():
    optimizer = sgd()
    with pytest.raises(ValueError, match="lr_range_test_min_lr lists 2 values, but the optimizer has 1 param group"):
        Driven(explodes, optimizer, lr_range_test_min_lr=[0.1, 0.2])
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer._optimizer_step_post_hooks
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="SGD has no learning rate to schedule"):
        Driven(explodes, optimizer)
