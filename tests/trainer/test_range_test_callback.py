"""LRRangeTestCallback in a real Trainer: what it records, and when it stops."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.kit.modules import Notes, Regression, Scripted, ValidatedRegression, data, run
from tests.kit.runs import RestoresLater, with_range_test

# Growth -----------------------------------------------------------------------------------------------------------


def test_exponential_growth_reaches_max_lr_with_the_last_of_num_steps(make_trainer):
    module = Scripted(lambda step: 1.0)
    result = run(make_trainer, module, lr_range_test_min_lr=1e-4, max_lr=1.0, num_steps=40)
    assert result.lrs == pytest.approx([1e-4 * 10 ** (4 * step / 39) for step in range(40)])
    assert [lr for lr, _ in module.seen] == result.lrs
    assert result.steps == list(range(40))
    assert (result.stop_reason, result.mode) == ("num_steps", "exponential")


@pytest.mark.parametrize("staircase", [False, True])
def test_linear_growth_stops_at_max_lr(make_trainer, staircase):
    result = run(
        make_trainer, Scripted(lambda step: 1.0), lr_range_test_min_lr=0.01, lr_range_test_step_size=5,
        lr_range_test_step_rate=10.0, lr_range_test_staircase=staircase, max_lr=0.5,
    )  # fmt: skip
    interval = [step // 5 if staircase else step / 5 for step in result.steps]
    assert result.lrs == pytest.approx([0.01 * (1 + 10 * i) for i in interval])
    assert max(result.lrs) <= 0.5 * (1 + 1e-9)
    assert (result.stop_reason, result.mode) == ("max_lr", "linear")


def test_linear_growth_without_an_end_lasts_as_long_as_the_trainer(make_trainer):
    result = run(make_trainer, Scripted(lambda step: 1.0), lr_range_test_step_size=2)
    assert (len(result.steps), result.stop_reason) == (30, "trainer")


def test_a_group_with_lr_0_keeps_it_in_the_test_and_in_what_follows(make_trainer):
    def frozen_first(parameters):
        parameters = list(parameters)
        return torch.optim.SGD([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:], "lr": 0.1}])

    module, used = Scripted(lambda step: 2.0 - 0.01 * step, frozen_first), Notes()
    module.on_before_optimizer_step = lambda optimizer: used.append([group["lr"] for group in optimizer.param_groups])
    for growth in ({}, {"lr_range_test_step_size": 1}):
        result = run(make_trainer, module, lr_range_test_min_lr=1e-3, max_lr=1.0, num_steps=20, **growth)
        assert [first for first, _ in used] == [0.0] * len(used)
        assert result.group_ratios == [0.0, 1.0]
        assert result.one_cycle(100)["params"]["cycle_max_lr"][0] == 0.0
    with pytest.raises(ValueError, match=r"lr_range_test_min_lr\[0\] must be .*greater than 0"):
        LRRangeTestCallback(lr_range_test_min_lr=[0.0, 1e-3])


def two_groups(parameters):
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:], "lr": 0.1}])


@pytest.mark.parametrize("min_lr", [1e-3, [1e-4, 1e-3]])
def test_the_groups_keep_the_ratio_of_their_learning_rates(make_trainer, min_lr):
    module = Scripted(lambda step: 1.0, two_groups)
    ratios = []
    module.on_before_optimizer_step = lambda optimizer: ratios.append(
        optimizer.param_groups[0]["lr"] / optimizer.param_groups[1]["lr"]
    )
    result = run(make_trainer, module, lr_range_test_min_lr=min_lr, max_lr=1.0, num_steps=20)
    assert ratios == pytest.approx([0.1] * 20)
    assert result.group_ratios == pytest.approx([0.1, 1.0])
    assert result.lrs[0] == 1e-3


@pytest.mark.parametrize(
    ("optimizer", "momentum"),
    [(None, "momentum"), (lambda p: torch.optim.Adam(p, 0.1), "betas"), (lambda p: torch.optim.SGD(p, 0.1), None)],
)
def test_the_result_knows_where_the_optimizer_keeps_its_momentum(make_trainer, optimizer, momentum):
    module = Scripted(lambda step: 1.0, optimizer)
    module.on_before_optimizer_step = lambda optimizer: None
    assert run(make_trainer, module, num_steps=12).momentum == momentum


# Record -----------------------------------------------------------------------------------------------------------


def test_accumulated_losses_are_averaged_and_lightnings_division_is_undone(make_trainer):
    losses = iter(range(1000))
    module = Scripted(lambda step: float(next(losses)))
    result = run(make_trainer, module, trainer_options={"accumulate_grad_batches": 4}, num_steps=5)
    # 10 batches an epoch: windows of 4, 4 and 2 batches
    assert result.losses == pytest.approx([1.5, 5.5, 8.5, 11.5, 15.5])


def test_the_monitored_validation_loss_takes_the_place_of_the_training_loss(make_trainer):
    module = ValidatedRegression()
    seen = []
    module.on_validation_epoch_end = lambda: seen.append(module.trainer.callback_metrics["val_loss"].item())
    callback = LRRangeTestCallback(monitor="val_loss", num_steps=40)
    make_trainer(callback, val_check_interval=2, num_sanity_val_steps=1).fit(module, data(), data(2))
    recorded = len(callback.result.losses)
    assert recorded >= 8
    assert callback.result.steps == list(range(1, 2 * recorded, 2))
    assert callback.result.losses == pytest.approx(seen[1 : 1 + recorded])  # without the sanity check's


def test_a_metric_that_is_not_logged_is_told_with_the_nearest_name(make_trainer):
    with pytest.raises(ValueError, match=r"monitor='val_los' was not logged.*did you mean 'val_loss'"):
        make_trainer(LRRangeTestCallback(monitor="val_los")).fit(ValidatedRegression(), data(), data(2))


def test_manual_optimization_sweeps_one_optimizer_and_holds_the_other(make_trainer):
    class Manual(LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.a, self.b, self.lrs = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), Notes()

        def training_step(self, batch, batch_idx):
            self.lrs.append([o.param_groups[0]["lr"] for o in self.optimizers()])
            for net, optimizer in zip((self.a, self.b), self.optimizers(), strict=True):
                optimizer.zero_grad()
                loss = net(batch[0]).square().mean()
                self.manual_backward(loss)
                optimizer.step()
            return {"loss": loss}

        def configure_optimizers(self):
            return torch.optim.SGD(self.a.parameters(), 0.01), torch.optim.Adam(self.b.parameters(), 0.02)

    module = Manual()
    result = run(make_trainer, module, optimizer_index=1, max_lr=0.1, num_steps=20)
    assert len(result.steps) >= 12
    assert [lrs[0] for lrs in module.lrs] == [0.01] * len(module.lrs)
    assert [lrs[1] for lrs in module.lrs][: len(result.lrs)] == pytest.approx(result.lrs)


def test_steps_that_a_gradient_scaler_skips_are_not_recorded(make_trainer):
    class Scaled(Scripted):
        """Stands for fp16 training: every third optimizer call is skipped, as a GradScaler does after an overflow."""

        calls = 0

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            self.calls += 1
            if self.calls % 3:
                super().optimizer_step(epoch, batch_idx, optimizer, closure)
            else:
                closure()

    batches = iter(range(1000))
    module = Scaled(lambda step: float(next(batches)))
    result = run(make_trainer, module, num_steps=8)
    assert result.losses == [0.0, 1.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0]
    assert result.steps == list(range(8))


# Stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "step"), [(math.nan, 0), (math.inf, 7), (-math.inf, 25)])
def test_a_loss_that_is_not_finite_stops_the_test_at_once(make_trainer, bad, step):
    result = run(make_trainer, Scripted(lambda s: bad if s == step else 1.0), num_steps=200)
    assert result.stop_reason == "non-finite loss"
    assert result.steps[-1] == step


def test_a_real_model_diverges_and_stops(make_trainer):
    result = run(make_trainer, Regression())
    assert result.stop_reason in ("diverged", "non-finite loss")
    low, high = result.bounds()
    assert 1e-6 < low < high < 1.0


def test_minimum_epochs_and_steps_do_not_keep_a_diverged_test_running(make_trainer):
    limits = {"min_epochs": 3, "min_steps": 100}
    module = Scripted(lambda s: math.nan if s == 5 else 1.0)
    result = run(make_trainer, module, trainer_options=limits, num_steps=200)
    assert result.steps[-1] == 5


# Other drivers ------------------------------------------------------------------------------------------------------


def test_the_ratios_are_those_of_the_optimizer_not_of_a_warmup_that_begins_at_0(make_trainer):
    def warmed_up(parameters):
        optimizer = two_groups(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Scripted(lambda step: 1.0, warmed_up)
    module.on_before_optimizer_step = lambda optimizer: None
    assert run(make_trainer, module, num_steps=12).group_ratios == pytest.approx([0.1, 1.0])


class Gan(LightningModule):
    """Steps two optimizers and their schedulers by hand, as Lightning's documentation does."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b, self.lrs = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), Notes()

    def training_step(self, batch, batch_idx):
        for net, optimizer, scheduler in zip((self.a, self.b), self.optimizers(), self.lr_schedulers(), strict=True):
            loss = net(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            scheduler.step()
        self.lrs.append([o.param_groups[0]["lr"] for o in self.optimizers()])
        return loss

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(net.parameters(), 0.01) for net in (self.a, self.b)]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]


def test_schedulers_stepped_by_hand_do_not_disturb_the_sweep_and_the_other_goes_on(make_trainer):
    module = Gan()
    result = run(make_trainer, module, optimizer_index=1, max_lr=0.01, num_steps=12)
    assert [lrs[0] for lrs in module.lrs] == pytest.approx([0.01 * 0.9 ** (step + 1) for step in range(12)])
    assert [lrs[1] for lrs in module.lrs][:-1] == result.lrs[1:]


@pytest.mark.parametrize("every", [1, 2])
def test_a_module_may_step_torchs_optimizer_itself(make_trainer, every):
    class ByHand(Regression):
        automatic_optimization = False

        def __init__(self, own: bool) -> None:
            torch.manual_seed(1)
            super().__init__()
            self.own = own

        def on_before_optimizer_step(self, optimizer):
            pass

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=not self.own)
            self.manual_backward(self.loss(batch))
            if batch_idx % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()

    results = []
    for own in (False, True):
        torch.manual_seed(2)
        results.append(run(make_trainer, ByHand(own), max_lr=1.0, num_steps=20))
    assert results[0] == results[1]


def test_a_manual_loop_that_returns_no_loss_is_told_so(make_trainer):
    class Silent(Gan):
        def manual_backward(self, loss):
            loss.backward()

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="training_step returned no loss in 10 optimizer steps"):
        make_trainer(LRRangeTestCallback()).fit(Silent(), data())


def test_a_gradient_scaler_that_skips_every_step_ends_the_test(make_trainer):
    class Exploding(Regression):
        """As after an explosion under fp16: from the 15th batch on the optimizer is never called again."""

        calls = Notes()

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            self.calls.append(batch_idx)
            closure() if len(self.calls) > 14 else super().optimizer_step(epoch, batch_idx, optimizer, closure)

    module = Exploding()
    result = run(make_trainer, module, num_steps=200)
    assert result.stop_reason == "skipped steps"
    assert (len(result.steps), len(module.calls)) == (14, 34)


# Two sweeps ---------------------------------------------------------------------------------------------------------


class Swept(Callback):
    """Notes a state at the first batch of each sweep: where the lr is lower than at the batch before."""

    def __init__(self, state, optimizer=0):
        self.state, self.optimizer, self.states, self.lr = state, optimizer, Notes(), math.inf

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        lr = trainer.optimizers[self.optimizer].param_groups[0]["lr"]
        if lr < self.lr:
            self.states.append(copy.deepcopy(self.state(trainer)))
        self.lr = lr


def numbers(state):
    """A state as text, in which equal tensors are equal."""
    return repr({key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in state.items()})


def test_without_a_range_a_fine_sweep_follows_a_coarse_one(make_trainer):
    module = Regression()
    swept = Swept(lambda trainer: numbers(module.state_dict()) + repr(trainer.optimizers[0].state_dict()["state"]))
    callback = LRRangeTestCallback()
    make_trainer(callback, swept).fit(module, data())
    result = callback.result
    assert result.coarse.stop_reason in ("diverged", "non-finite loss")
    assert [lr for lr, _ in module.seen] == [*result.coarse.lrs, *result.lrs]
    assert result.lrs[0] == pytest.approx(result.coarse.lrs[-1] / 100)
    assert len(swept.states) == 2
    assert swept.states[0] == swept.states[1] == numbers(module.state_dict()) + "{}"


def test_a_schedule_of_another_optimizer_begins_anew_with_each_sweep(make_trainer):
    module = Gan()
    swept = Swept(lambda trainer: trainer.optimizers[0].param_groups[0]["lr"], optimizer=1)
    result_of = LRRangeTestCallback(optimizer_index=1)
    make_trainer(result_of, swept).fit(module, data())
    first, coarse = [lrs[0] for lrs in module.lrs], len(result_of.result.coarse.steps)
    assert swept.states == [0.01, 0.01]
    assert first == pytest.approx([0.01 * 0.9 ** (step + 1) for step in [*range(coarse), *range(len(first) - coarse)]])


def test_a_micro_batch_in_progress_is_dropped_between_the_sweeps(make_trainer):
    class Manual(Scripted):
        """Steps in every fourth batch, after the first of two backward passes: a gradient is left over."""

        automatic_optimization = False
        left_over = Notes()

        def training_step(self, batch, batch_idx):
            self.left_over.append(self.net[0].weight.grad is not None)
            optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))

    module = Manual(lambda step: math.nan if step == 30 else 1.0)
    result = run(make_trainer, module)
    assert (len(result.coarse.steps), len(result.steps)) == (31, 200)
    assert [number for number, left in enumerate(module.left_over) if not left] == [0, 62]


def test_the_trainers_limits_end_the_test_in_either_sweep(make_trainer):
    callback = LRRangeTestCallback()
    make_trainer(callback, fast_dev_run=12).fit(Scripted(lambda step: 1.0), data(40))
    assert (len(callback.result.steps), callback.result.stop_reason, callback.result.coarse) == (12, "trainer", None)

    class StopLater(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 110

    make_trainer(callback, StopLater()).fit(Scripted(lambda step: 1.0), data(40))
    assert (len(callback.result.coarse.steps), callback.result.stop_reason) == (100, "trainer")
    assert len(callback.result.steps) == 11


def test_an_exception_in_the_fine_sweep_leaves_both_records_and_the_module_as_it_was(make_trainer):
    class Stop(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            if self.trainer.global_step == 115:
                raise RuntimeError("user's code")

    module, callback = Stop(), LRRangeTestCallback()
    before = numbers(module.state_dict())
    with pytest.raises(RuntimeError, match="user's code"):
        make_trainer(callback).fit(module, data())
    assert callback.result.coarse.stop_reason == "diverged"
    assert callback.result.stop_reason == "interrupted"
    assert numbers(module.state_dict()) == before


@pytest.mark.parametrize("later", [False, True])
def test_both_sweeps_begin_from_a_checkpoint(make_trainer, tmp_path, later):
    def adam(parameters):
        return torch.optim.AdamW(parameters, 0.01)

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Regression(adam), data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    moments = trainer.optimizers[0].state_dict()["state"]
    swept = Swept(lambda trainer: trainer.optimizers[0].state_dict()["state"])
    callback = LRRangeTestCallback()
    options = {"strategy": RestoresLater(torch.device("cpu"))} if later else {}
    module = Regression(adam)
    make_trainer(callback, swept, **options).fit(module, data(), ckpt_path=tmp_path / "trained.ckpt")
    assert callback.result.coarse is not None
    assert [list(map(numbers, state.values())) for state in swept.states] == [list(map(numbers, moments.values()))] * 2


def test_skipped_steps_that_end_the_coarse_sweep_lead_to_a_fine_one(make_trainer):
    class Overflows(Regression):
        """As under fp16: above some lr no step is made any more."""

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            lr = optimizer.param_groups[0]["lr"]
            closure() if lr > 0.01 else super().optimizer_step(epoch, batch_idx, optimizer, closure)

    result = run(make_trainer, Overflows())
    assert (result.coarse.stop_reason, result.stop_reason) == ("skipped steps", "skipped steps")
    assert result.coarse.lrs[-1] < 0.01
    assert 0.0095 < result.lrs[-1] < 0.01


# Arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mode": "exponentiel"}, "did you mean 'exponential'"),
        ({"lr_range_test_min_lr": 0.0}, "lr_range_test_min_lr"),
        ({"lr_range_test_min_lr": (1e-4, -1.0)}, r"lr_range_test_min_lr\[1\]"),
        ({"lr_range_test_min_lr": 1.0, "max_lr": 0.1}, "max_lr"),
        ({"max_lr": math.nan}, "max_lr"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"lr_range_test_step_size": -1}, "lr_range_test_step_size"),
        ({"lr_range_test_step_rate": "fast"}, "lr_range_test_step_rate"),
        ({"mode": "exponential", "lr_range_test_step_size": 5}, "lr_range_test_step_size belongs to mode='linear'"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"divergence_factor": 0.0}, "divergence_factor"),
    ],
)
def test_wrong_arguments_are_told_at_construction(options, key):
    with pytest.raises((TypeError, ValueError), match=key):
        LRRangeTestCallback(**options)


# Steps, not records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [7, 10, 64])
@pytest.mark.parametrize("num_steps", [20, 64])
def test_num_steps_are_made_and_recorded_no_more_and_no_fewer(make_trainer, batches, num_steps):
    module = Scripted(lambda step: 1.0)
    result = run(make_trainer, module, data(batches), num_steps=num_steps)
    assert len(module.seen) == len(result.steps) == num_steps
    assert result.lrs[-1] == pytest.approx(10.0)


def test_auto_is_as_many_steps_as_the_run(make_trainer):
    module = Scripted(lambda step: 1.0)
    result = run(make_trainer, module, data(64), trainer_options={"max_epochs": 1}, num_steps="auto")
    assert len(module.seen) == len(result.steps) == 64


class Learner(ValidatedRegression):
    """Learns a regression in some ten steps, without the noise of dropout and batch normalization."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))


def test_how_often_the_trainer_validates_does_not_move_the_suggestion(make_trainer):
    def suggestion(every: int) -> float:
        torch.manual_seed(0)
        options = {"val_check_interval": every, "num_sanity_val_steps": 0}
        callback = LRRangeTestCallback(monitor="val_loss")
        make_trainer(callback, **options).fit(Learner(), data(40), data(4))
        return callback.result.suggestion()

    often = suggestion(1)
    for every in (2, 5, 10):
        assert 0.4 < suggestion(every) / often < 2.5


@pytest.mark.parametrize("every", [2, 5])
def test_a_model_that_was_trained_before_is_swept_up_to_where_it_really_diverges(make_trainer, every):
    class Converged(Learner):
        """What it cannot learn is most of its loss, as in a model that was trained before."""

        def loss(self, batch):
            return 1.5 + super().loss(batch)

    module = Converged()
    make_trainer(max_epochs=20, limit_val_batches=0).fit(module, data(40), data(4))
    callback = LRRangeTestCallback(monitor="val_loss", num_steps=100)
    make_trainer(callback, val_check_interval=every, num_sanity_val_steps=0).fit(module, data(40), data(4))
    assert callback.result.lrs[-1] > 0.1


# The stop rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [math.inf, None])
def test_the_stop_rule_can_be_switched_off(make_trainer, factor):
    result = run(make_trainer, Scripted(lambda step: 1.0 + step), num_steps=60, divergence_factor=factor)
    assert (len(result.steps), result.stop_reason) == (60, "num_steps")
    spoiled = Scripted(lambda step: math.nan if step == 30 else 1.0 + step)
    assert run(make_trainer, spoiled, num_steps=60, divergence_factor=factor).stop_reason == "non-finite loss"


# monitor ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "val_data", "options"),
    [(ValidatedRegression, None, {}), (Regression, 2, {}), (ValidatedRegression, 2, {"limit_val_batches": 0})],
)
@pytest.mark.filterwarnings("ignore:You (defined|passed) .* Skipping val loop")  # Lightning's, to the same effect
def test_monitor_without_a_validation_is_refused_before_the_first_step(make_trainer, module, val_data, options):
    trained = module()
    with pytest.raises(ValueError, match=r"monitor='val_los' needs validation, and this fit has none"):
        make_trainer(LRRangeTestCallback(monitor="val_los"), **options).fit(
            trained, data(), data(val_data) if val_data else None
        )
    assert trained.seen == []


def test_a_test_without_any_validation_in_it_says_so(make_trainer):
    callback = LRRangeTestCallback(monitor="val_loss", num_steps=8)
    make_trainer(callback, check_val_every_n_epoch=5).fit(ValidatedRegression(), data(), data(2))
    with pytest.raises(ValueError, match=r"recorded no loss.*val_check_interval"):
        callback.result.suggestion()


# Linear tests -------------------------------------------------------------------------------------------------------


def test_a_linear_test_of_a_million_steps_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"1,998,001 optimizer steps.*lr_range_test_step_rate \(with 9\.99e\+03"):
        LRRangeTestCallback(mode="linear", max_lr=1.0)
    LRRangeTestCallback(mode="linear", max_lr=1.0, num_steps=100, lr_range_test_step_rate=9.99e3)


def test_a_long_linear_test_is_warned_about_with_its_number_of_steps(make_trainer):
    callback = LRRangeTestCallback(lr_range_test_step_size=20, max_lr=1.0)
    with pytest.warns(UserWarning, match="will take 19,981 optimizer steps to reach max_lr=1"):
        make_trainer(callback, fast_dev_run=3).fit(Scripted(lambda step: 1.0), data())


def test_a_linear_test_that_the_trainer_ends_after_hardly_any_growth_is_warned_about(make_trainer):
    with pytest.warns(UserWarning, match="goes only from 0.001 to 0.0010145, less than one decade"):
        run(make_trainer, Scripted(lambda step: 1.0), mode="linear")


# Others in the same fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}), "would train nothing"),
        (LRSchedulerCallback, r"range_test=LRRangeTestCallback\(\.\.\.\)"),
        (LRRangeTestCallback, "another one of this Trainer tests in the same fit"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_fit_that_should_do_more_than_test_is_refused(make_trainer, other, message, first):
    callbacks, module = [LRRangeTestCallback(), other()], Regression()
    with pytest.raises(ValueError, match=message):
        make_trainer(*(callbacks if first else callbacks[::-1])).fit(module, data())
    assert module.seen == []


def test_an_error_that_the_module_raises_at_a_high_lr_says_where_it_was(make_trainer, caplog):
    class Strict(Regression):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if not loss < 10.0:
                raise ValueError("the loss is too large")
            return loss

    for callback in (LRRangeTestCallback(), with_range_test()):
        with pytest.raises(ValueError, match="the loss is too large") as caught:
            make_trainer(callback, max_epochs=6).fit(Strict(), data())
        notes = [*getattr(caught.value, "__notes__", []), *caplog.messages]
        assert sum("This was in the LR range test, in step" in note and "at lr " in note for note in notes) >= 1


# The end ------------------------------------------------------------------------------------------------------------


def test_a_finished_test_says_so_in_one_line(make_trainer, caplog):
    with caplog.at_level(logging.INFO):
        result = run(make_trainer, Regression())
    [line] = [text for text in caplog.messages if text.startswith("LR range test: ") and "optimizer steps" in text]
    assert not any("stopped: `max_epochs" in text for text in caplog.messages)  # Lightning's, of a limit nobody set
    assert f"LR range test: {len(result.coarse.steps)} + {len(result.steps)} optimizer steps" in line
    assert f"suggested lr {result.suggestion():.3g}" in line
    assert "restored" in line


def test_a_test_that_did_not_come_to_its_end_suggests_nothing_in_the_log(make_trainer, caplog):
    class Stop(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            if self.trainer.global_step == 60:
                raise RuntimeError("user's code")

    with caplog.at_level(logging.INFO):
        with pytest.raises(RuntimeError, match="user's code"):
            make_trainer(LRRangeTestCallback()).fit(Stop(), data())
        make_trainer(LRRangeTestCallback(), fast_dev_run=12).fit(Regression(), data())
    lines = [text for text in caplog.messages if text.startswith("LR range test: ")]
    assert [line.partition(" after ")[0] for line in lines] == [
        "LR range test: interrupted", "LR range test: ended by fast_dev_run"
    ]  # fmt: skip


def test_without_a_suggestion_the_line_says_why(make_trainer, caplog):
    with caplog.at_level(logging.INFO):
        run(make_trainer, Scripted(lambda step: 1.0 + step), num_steps=8)
    assert any("no suggestion: the range test recorded only 8" in text for text in caplog.messages)


def test_before_a_test_the_result_is_an_error_that_says_what_to_do(make_trainer):
    with pytest.raises(RuntimeError, match=r"no LR range test has ended yet: run Trainer\(callbacks="):
        LRRangeTestCallback().result.suggestion()


def test_the_callback_tests_again_from_the_beginning(make_trainer):
    callback = LRRangeTestCallback(num_steps=20)
    trainer = make_trainer(callback)
    trainer.fit(Scripted(lambda step: 1.0), data())
    first = callback.result
    trainer.fit(Scripted(lambda step: 1.0), data())
    assert callback.result is not first
    assert callback.result.lrs == first.lrs


def test_the_range_test_takes_lengths_too(make_trainer):
    callback = LRRangeTestCallback(1e-4, "auto", 1.0, num_steps="2ep")
    make_trainer(callback).fit(Regression(), data())
    assert callback.result is not None
    assert callback.result.stop_reason == "num_steps"
    assert len(callback.result.steps) == 20
    # A hundredth of 30 steps is less than one: one interval per step.
    assert callback.result.lrs[:3] == pytest.approx([1e-4, 2e-4, 3e-4])
    with pytest.raises((TypeError, ValueError), match="num_steps"):
        LRRangeTestCallback(num_steps="soon")
