"""LRSchedulerCallback in a real Trainer: the values of each step, the clock, the curves, resuming, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import LRSchedulerCallback, OneCycle, SchedulerConfig
from tests.trainer.conftest import Regression, ValidatedRegression, data

ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8, "decay_step_size": 4,
               "decay_lr_rate": 1.0},
}  # fmt: skip


def expected(config: dict, steps: int) -> list[tuple[float, float]]:
    """(lr, momentum) of the first steps, from the pure functions."""
    schedule = SchedulerConfig.of(config).build(torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9))
    return [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(steps)]


def read_csv(logger: CSVLogger) -> dict[str, dict[int, float]]:
    """tag -> {step: value} of what a CSVLogger wrote."""
    curves: dict[str, dict[int, float]] = {}
    with (Path(logger.log_dir) / "metrics.csv").open() as lines:
        for row in csv.DictReader(lines):
            for tag, value in row.items():
                if tag != "step" and value:
                    assert int(row["step"]) not in curves.setdefault(tag, {}), f"{tag} was logged twice"
                    curves[tag][int(row["step"])] = float(value)
    return curves


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_optimizer_step_runs_at_the_values_of_the_schedule(make_trainer, accumulate):
    module = Regression()
    callback = LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback, accumulate_grad_batches=accumulate).fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 30 // accumulate)
    assert callback.schedulers[0].last_epoch == 30 // accumulate


def test_a_file_and_a_config_object_are_taken_as_well_as_a_dict(make_trainer, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 8, "scheduler": ONE_CYCLE}))
    for scheduler in (path, str(path), SchedulerConfig.load(path)):
        module = Regression()
        make_trainer(LRSchedulerCallback(scheduler), max_epochs=1).fit(module, data())
        assert module.seen == expected(ONE_CYCLE, 10)


@pytest.mark.parametrize("first_beta", [True, False])
def test_adam_gets_its_first_beta_cycled_and_keeps_the_second(make_trainer, first_beta):
    module = Regression(lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.97)))
    config = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "cycle_momentum": first_beta}}
    trainer = make_trainer(LRSchedulerCallback(config))
    trainer.fit(module, data())
    momenta = [momentum for _, momentum in module.seen]
    assert momenta == ([m for _, m in expected(ONE_CYCLE, 30)] if first_beta else [0.9] * 30)
    assert trainer.optimizers[0].param_groups[0]["betas"][1] == 0.97


def test_a_step_without_a_loss_does_not_count(make_trainer):
    class Skipping(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 3 == 0 else self.loss(batch)

    module = Skipping()
    callback = LRSchedulerCallback(ONE_CYCLE)
    with pytest.warns(UserWarning, match="training_step` returned `None"):
        make_trainer(callback, max_epochs=1).fit(module, data())
    # Lightning calls the optimizer even then; the schedule follows the optimizer.
    assert callback.schedulers[0].last_epoch == len(module.seen)


class TwoOptimizers(LightningModule):
    """Manual optimization: the second optimizer steps on every third batch only."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        for number, (net, optimizer) in enumerate(zip((self.a, self.b), self.optimizers(), strict=True)):
            if number == 0 or batch_idx % 3 == 0:
                optimizer.zero_grad()
                self.manual_backward(net(batch[0]).square().mean())
                optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.a.parameters(), 0.1, momentum=0.9), torch.optim.SGD(self.b.parameters(), 0.1)


def test_under_manual_optimization_each_schedule_counts_its_own_optimizer(make_trainer):
    warmup = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}
    callback = LRSchedulerCallback([ONE_CYCLE, warmup])
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert [schedule.last_epoch for schedule in callback.schedulers] == [30, 12]
    assert [group["lr"] for o in trainer.optimizers for group in o.param_groups] == [
        *callback.schedulers[0].lr_at(30),
        *callback.schedulers[1].lr_at(12),
    ]


def test_one_of_several_optimizers_is_scheduled_and_the_other_left_alone(make_trainer):
    callback = LRSchedulerCallback(ONE_CYCLE, optimizer_index=0)
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert len(callback.schedulers) == 1
    assert trainer.optimizers[1].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (LRSchedulerCallback(ONE_CYCLE), "2 optimizers; choose one with optimizer_index=0..1"),
        (LRSchedulerCallback(ONE_CYCLE, optimizer_index=2), "optimizer_index must be 0..1, got 2"),
        (LRSchedulerCallback([ONE_CYCLE]), "lists 1 schedules, but the module has 2 optimizers"),
    ],
)
def test_an_unclear_choice_of_optimizer_is_refused(make_trainer, callback, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(callback).fit(TwoOptimizers(), data())


# Curves -----------------------------------------------------------------------------------------------------------


def groups(parameters):
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "name": "rest"}], 0.01, momentum=0.9)


@pytest.mark.parametrize("optimizer", [None, groups, lambda p: torch.optim.Adam(p, 0.01)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_curves_have_the_monitors_tags_and_the_schedules_values(make_trainer, tmp_path, optimizer, accumulate):
    ours, theirs = CSVLogger(tmp_path, "ours"), CSVLogger(tmp_path, "theirs")
    callback = LRSchedulerCallback(ONE_CYCLE)
    options = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulate}
    make_trainer(callback, logger=ours, **options).fit(Regression(optimizer), data())
    monitored = [LRSchedulerCallback(ONE_CYCLE, log=False), LearningRateMonitor(log_momentum=True)]
    if accumulate == 1:
        make_trainer(*monitored, logger=theirs, **options).fit(Regression(optimizer), data())
        assert read_csv(ours) == read_csv(theirs)

    schedule = callback.schedulers[0]
    steps = [step for step in range(schedule.last_epoch) if (step + 1) % 2 == 0]
    curves = read_csv(ours)
    for tag, values in curves.items():
        group = 1 if tag.startswith("lr-SGD/rest") else 0
        value_at = schedule.momentum_at if tag.endswith("momentum") else schedule.lr_at
        assert values == {step: value_at(step)[group] for step in steps}
    assert len(curves) == 2 * len(schedule.optimizer.param_groups)


@pytest.mark.parametrize("log_momentum", [True, False])
def test_what_a_monitor_logs_is_not_logged_twice(make_trainer, tmp_path, log_momentum):
    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(log_momentum=log_momentum)
    make_trainer(LRSchedulerCallback(ONE_CYCLE), monitor, logger=logger, log_every_n_steps=1).fit(Regression(), data())
    curves = read_csv(logger)  # fails on a repeated point
    assert curves["lr-SGD"] == {step: lr for step, (lr, _) in enumerate(expected(ONE_CYCLE, 30))}
    assert curves["lr-SGD-momentum"] == {step: momentum for step, (_, momentum) in enumerate(expected(ONE_CYCLE, 30))}


def test_two_optimizers_of_one_class_have_the_monitors_tags(make_trainer, tmp_path):
    ours, theirs = CSVLogger(tmp_path, "ours"), CSVLogger(tmp_path, "theirs")
    both = [ONE_CYCLE, {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}]
    make_trainer(LRSchedulerCallback(both), logger=ours, log_every_n_steps=1).fit(TwoOptimizers(), data())
    monitored = [LRSchedulerCallback(both, log=False), LearningRateMonitor(log_momentum=True)]
    make_trainer(*monitored, logger=theirs, log_every_n_steps=1).fit(TwoOptimizers(), data())
    # The monitor also logs a momentum that nobody schedules.
    assert set(read_csv(ours)) == set(read_csv(theirs)) - {"lr-SGD-1-momentum"}


def test_tensorboard_shows_the_curves_against_the_optimizer_step(make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=5).fit(Regression(), data())
    events = EventAccumulator(logger.log_dir).Reload()
    for tag, column in (("lr-SGD", 0), ("lr-SGD-momentum", 1)):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert list(points) == [4, 9, 14, 19, 24, 29]
        for step, value in points.items():
            assert value == pytest.approx(expected(ONE_CYCLE, 30)[step][column], rel=1e-6)  # event files hold float32


def test_log_false_logs_nothing(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    make_trainer(LRSchedulerCallback(ONE_CYCLE, log=False), logger=logger, log_every_n_steps=1).fit(
        Regression(), data()
    )
    assert not (Path(logger.log_dir) / "metrics.csv").exists()


class ManySteps(Regression):
    """Manual optimization with three optimizer steps per batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(3):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]), (10, [11, 20, 29])])
def test_several_steps_per_batch_do_not_thin_the_curves(make_trainer, tmp_path, every, steps):
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=every, max_epochs=1)
    trainer.fit(ManySteps(), data())
    assert read_csv(logger)["lr-SGD"] == {step: expected(ONE_CYCLE, 30)[step][0] for step in steps}


class Unfreeze(BaseFinetuning):
    """Adds a param group in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
@pytest.mark.filterwarnings("ignore:.*StepLR")
def test_a_group_that_is_added_under_torchs_own_scheduler_does_not_end_training(make_trainer, tmp_path, kind):
    logger = kind(tmp_path)
    callback = LRSchedulerCallback({"type": "StepLR", "params": {"step_size": 100}})
    trainer = make_trainer(callback, Unfreeze(), logger=logger, log_every_n_steps=1)
    trainer.fit(Regression(lambda _: torch.optim.SGD(module_parameters(trainer), lr=0.01, momentum=0.9)), data())
    assert trainer.global_step == 30
    if kind is CSVLogger:
        curves = read_csv(logger)
        assert list(curves["lr-SGD"]) == list(range(10))
        assert list(curves["lr-SGD/pg1"]) == list(range(10, 30))
        assert list(curves["lr-SGD/pg2"]) == list(range(11, 30))  # its first step began before StepLR knew it


def module_parameters(trainer):
    return [parameter for parameter in trainer.lightning_module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_values_that_cannot_be_computed_do_not_end_training(make_trainer, tmp_path, kind, monkeypatch):
    def broken(trainer):
        raise KeyError("no such optimizer")

    monkeypatch.setattr("lightning_lrsched.trainer.loggers.curve_tags", broken)
    callback = LRSchedulerCallback(ONE_CYCLE)
    with pytest.warns(UserWarning, match="failed to log the lr and momentum curves .KeyError"):
        make_trainer(callback, logger=kind(tmp_path), log_every_n_steps=1).fit(Regression(), data())
    assert callback.schedulers[0].last_epoch == 30


# Resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 8, 13, 20])
def test_an_interrupted_run_continues_as_if_it_had_not_been(make_trainer, tmp_path, stop):
    def fit(module, max_steps, ckpt_path=None):
        trainer = make_trainer(LRSchedulerCallback(ONE_CYCLE), max_steps=max_steps, max_epochs=-1)
        trainer.fit(module, data(batches=30), ckpt_path=ckpt_path)
        return trainer

    whole, resumed = Regression(), Regression()
    fit(Regression(), stop).save_checkpoint(tmp_path / "stopped.ckpt")
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        fit(resumed, 30, tmp_path / "stopped.ckpt")
    fit(whole, 30)
    assert resumed.seen == whole.seen[stop:] == expected(ONE_CYCLE, 30)[stop:]


def test_the_checkpoint_holds_plain_values_only(make_trainer, tmp_path):
    trainer = make_trainer(LRSchedulerCallback(ONE_CYCLE))
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["lr_schedulers"]
    assert [state["last_epoch"] for state in saved] == [30]


def test_fitting_twice_starts_a_new_schedule_for_the_new_optimizer(make_trainer):
    callback = LRSchedulerCallback(ONE_CYCLE)
    for _ in range(2):
        module = Regression()
        make_trainer(callback, max_epochs=1).fit(module, data())
        assert module.seen == expected(ONE_CYCLE, 10)
        assert len(callback.schedulers) == 1


class KeptOptimizer(Regression):
    """Returns the same optimizer each time."""

    def __init__(self):
        super().__init__()
        self.kept = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    def configure_optimizers(self):
        return self.kept


@pytest.mark.parametrize("new_callback", [False, True])
def test_a_module_that_keeps_its_optimizer_is_fitted_twice(make_trainer, new_callback):
    module, callback = KeptOptimizer(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback, max_epochs=1).fit(module, data())
    [schedule] = callback.schedulers
    assert schedule.last_epoch == 10
    assert schedule.get_last_lr() == schedule.lr_at(10)
    callback = LRSchedulerCallback(ONE_CYCLE) if new_callback else callback
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 10) * 2
    assert schedule.last_epoch == 10
    assert callback.schedulers[0].last_epoch == 10


@pytest.mark.parametrize("new_callback", [False, True])
def test_a_fit_that_failed_gives_the_optimizer_back(make_trainer, new_callback):
    class FailsOnce(KeptOptimizer):
        def on_train_batch_start(self, batch, batch_idx):
            if len(self.seen) == 4:
                self.seen.append(None)
                raise RuntimeError("out of luck")

    module, callback = FailsOnce(), LRSchedulerCallback(ONE_CYCLE)
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(callback, max_epochs=1).fit(module, data())
    assert callback.schedulers[0].last_epoch == 4
    callback = LRSchedulerCallback(ONE_CYCLE) if new_callback else callback
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.seen == [*expected(ONE_CYCLE, 4), None, *expected(ONE_CYCLE, 10)]


# Refusals ---------------------------------------------------------------------------------------------------------


def test_a_scheduler_of_the_module_for_the_same_optimizer_is_refused(make_trainer):
    def with_scheduler(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]

    with pytest.raises(ValueError, match=r"already returns a scheduler \(StepLR\) for optimizer 0"):
        make_trainer(LRSchedulerCallback(ONE_CYCLE)).fit(Regression(with_scheduler), data())


def test_two_of_our_callbacks_for_one_optimizer_are_refused(make_trainer):
    message = r"another LRSchedulerCallback of this Trainer already schedules optimizer 0 \(OneCycle\)"
    with pytest.raises(ValueError, match=message):
        make_trainer(LRSchedulerCallback(ONE_CYCLE), LRSchedulerCallback(ONE_CYCLE)).fit(Regression(), data())


def test_stochastic_weight_averaging_is_refused(make_trainer):
    callbacks = LRSchedulerCallback(ONE_CYCLE), StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(ValueError, match="StochasticWeightAveraging sets the lr of the same optimizer"):
        make_trainer(*callbacks).fit(Regression(), data())


def test_deepspeed_strategy_is_refused_with_the_way_out(make_trainer):
    class DeepSpeedStrategy:  # the real one runs on CUDA only
        pass

    trainer = make_trainer()
    trainer._accelerator_connector.strategy = DeepSpeedStrategy()
    with pytest.raises(ValueError, match=r"return lightning_lrsched\.configure_optimizers\(self, config\)"):
        LRSchedulerCallback(ONE_CYCLE).on_fit_start(trainer, Regression())


def test_a_module_without_optimizer_is_refused(make_trainer):
    with (
        pytest.warns(UserWarning, match="will run with no optimizer"),
        pytest.raises(ValueError, match="returned no optimizer"),
    ):
        make_trainer(LRSchedulerCallback(ONE_CYCLE)).fit(Regression(lambda _: None), data())


def test_a_wrong_configuration_is_told_at_construction():
    with pytest.raises(ValueError, match=r"cycle_max_lrr.*did you mean 'cycle_max_lr'"):
        LRSchedulerCallback({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lrr": 0.2}})


def test_wrong_values_leave_the_optimizer_as_it_was(make_trainer):
    bad = {"type": "OneCycle", "params": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 0.3}}
    trainer = make_trainer(LRSchedulerCallback(bad))
    with pytest.raises(
        ValueError, match=r"scheduler\.params\.cycle_min_lr lists 2 values, but the optimizer has 1 param"
    ):
        trainer.fit(Regression(), data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01


# Beside the callback ----------------------------------------------------------------------------------------------


def test_a_schedule_wired_by_hand_is_stepped_by_lightning(make_trainer):
    def wired(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        scheduler = OneCycle(optimizer, **ONE_CYCLE["params"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Regression(wired)
    make_trainer().fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 30)


def test_validate_test_and_predict_are_untouched(make_trainer):
    module, callback = ValidatedRegression(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback).validate(module, data(), verbose=False)
    assert callback.schedulers == []
