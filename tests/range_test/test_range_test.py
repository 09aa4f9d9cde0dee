"""RangeTestRun: a range test in the plainest of loops, from its first step to its result."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test import loss_watch, report
from lightning_lrsched.range_test.range_test import RangeTestRun
from lightning_lrsched.range_test.sweep import Row, SweepSettings
from lightning_lrsched.schedules.length import Horizon


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


@pytest.mark.parametrize("falls_at", [1e-4, 1e-2, 0.8])
def test_where_no_lr_explodes_the_fine_sweep_goes_from_a_tenth_to_30_times_the_lr_at_which_the_loss_fell(falls_at):
    result = Driven(lambda step, lr: 2.0 - 1.0 / (1.0 + falls_at / lr)).result
    assert (len(result.coarse.steps), len(result.steps)) == (100, 200)
    assert (result.coarse.stop_reason, result.stop_reason) == ("num_steps", "num_steps")
    assert 0.7 < 10 * result.lrs[0] / falls_at < 1.4
    assert result.lrs[-1] == pytest.approx(300 * result.lrs[0])


def test_where_the_loss_is_noise_the_fine_sweep_ends_near_the_last_lr():
    noise = random.Random(0)
    result = Driven(lambda step, lr: 2.0 + noise.gauss(0, 1.0), divergence_factor=5.0).result
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
    assert settings.resolved(Horizon.given(None, None)) == settings


@pytest.mark.parametrize(
    ("run", "steps"), [(None, (100, 200)), (10_000, (100, 200)), (900, (100, 200)), (300, (33, 67)), (16, (30, 60))]
)
def test_both_sweeps_are_shorter_where_the_run_is_short(run, steps):
    settings = SweepSettings().within(run)
    assert (settings.num_steps, settings.fine_steps) == steps
    assert settings.max_steps == sum(steps)
    assert SweepSettings(num_steps=50).within(16) == SweepSettings(num_steps=50)


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
    schedule = Driven(lambda step, lr: 1.0, lr_range_test_min_lr=0.01, max_lr=1.0, num_steps=3).schedule
    assert [schedule.lr_at(step)[0] for step in range(4)] == pytest.approx([0.01, 0.1, 1.0, 1.0])


def test_what_cannot_be_swept_is_refused_and_the_optimizer_is_untouched():
    optimizer = sgd()
    with pytest.raises(ValueError, match="lr_range_test_min_lr lists 2 values, but the optimizer has 1 param group"):
        Driven(explodes, optimizer, lr_range_test_min_lr=[0.1, 0.2])
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer._optimizer_step_post_hooks
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="SGD has no learning rate to schedule"):
        Driven(explodes, optimizer)


# Steps that do not follow the lr --------------------------------------------------------------------------------------


class OwnSchedule(torch.optim.SGD):
    """Its steps are as long as its own schedule says, whatever lr is set."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad.sign(), alpha=-1e-3)


@pytest.mark.parametrize(
    ("make", "follows"),
    [(OwnSchedule, False), (torch.optim.SGD, True), (torch.optim.AdamW, True), (torch.optim.Adagrad, True),
     (torch.optim.RMSprop, True)],
)  # fmt: skip
def test_an_optimizer_whose_steps_do_not_follow_the_lr_is_told(make, follows):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer, inputs = make(net.parameters(), lr=0.1), torch.randn(64, 4)
    run = RangeTestRun(SweepSettings(), optimizer, Driven(lambda step, lr: 1.0, num_steps=1))
    while run.verdict is None:
        run.start_batch()
        loss = (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.sweep.add(loss)
        run.sweep.advance()
    result = run.end()
    assert any("did not grow with the lr" in caveat for caveat in report.caveats_of(result)) is not follows
    assert RangeTestResult.from_dict(result.to_dict()) == result
