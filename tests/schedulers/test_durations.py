""" "auto", fractions and epochs: what they become, and what a run of unknown length says."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, SchedulerConfig, configure_optimizers
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.run_length import run_length_of
from tests.kit.modules import Regression, data

RUN = RunLength(total_steps=1000, steps_per_epoch=100)


@pytest.mark.parametrize(
    ("value", "steps"),
    [("auto", 100), ("AUTO", 100), (" Auto ", 100), (0.25, 250), ("0.25", 250), ("2ep", 200), ("0.5 Epochs", 50),
     ("1 epoch", 100), (1e-9, 1), (0, 0), (7, 7)],
)  # fmt: skip
def test_a_duration_becomes_optimizer_steps(value, steps):
    config = SchedulerConfig("WarmupLR", warmup_num_steps=value, warmup_max_lr=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    assert config.build(optimizer, RUN).warmup_num_steps == steps
    assert config.resolve(optimizer, RUN).to_dict()["params"]["warmup_num_steps"] == steps


@pytest.mark.parametrize(
    "value", ["2e p", "ep", "-1ep", "2 days", "half", -0.1, 1.5, "nanep", True, [0.1], None, 1.0, "10%"]
)
def test_what_is_no_duration_is_refused_by_name(value):
    with pytest.raises((TypeError, ValueError), match=r"scheduler\.params\.warmup_num_steps"):
        SchedulerConfig("WarmupLR", warmup_num_steps=value)


@pytest.mark.parametrize(
    ("type_name", "params", "own_lrs", "resolved"),
    [
        ("OneCycle", {"cycle_max_lr": "auto", "cycle_min_lr": "auto"}, [0.1, 0.2],
         {"cycle_max_lr": (0.1, 0.2), "cycle_min_lr": (pytest.approx(0.01), pytest.approx(0.02))}),
        ("OneCycle", {"cycle_max_lr": 1.0, "cycle_min_lr": "auto"}, [0.1], {"cycle_max_lr": 1.0, "cycle_min_lr": 0.1}),
        ("WarmupLR", {"warmup_max_lr": "auto", "warmup_min_lr": "auto"}, [0.3],
         {"warmup_max_lr": 0.3, "warmup_min_lr": 0.0}),
    ],
)  # fmt: skip
def test_auto_learning_rates_come_from_the_optimizer(type_name, params, own_lrs, resolved):
    assert SchedulerConfig(type_name, params).resolve_numbers(RUN, own_lrs).params == resolved


def test_a_group_that_is_added_later_warms_up_to_its_own_lr():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = SchedulerConfig("WarmupLR", warmup_max_lr="auto", warmup_num_steps=2).build(optimizer)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.7})
    assert schedule.lr_at(10) == [0.1, 0.7]


# A real Trainer ---------------------------------------------------------------------------------------------------


class Unsized(IterableDataset):
    def __iter__(self):
        yield from ((torch.zeros(8, 4), torch.zeros(8, 1)) for _ in range(10))


class Manual(Regression):
    """Two optimizers, each stepped once per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9) for _ in range(2)]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


class Asking(Callback):
    run: RunLength

    def on_fit_start(self, trainer, pl_module):
        self.run = run_length_of(trainer)


def unsized() -> DataLoader:
    return DataLoader(Unsized(), batch_size=None)


@pytest.mark.parametrize(
    ("module", "options", "loader", "steps", "per_epoch"),
    [
        (Regression, {}, data, 30, 10),
        (Manual, {}, data, 30, 10),
        (Regression, {"max_epochs": 2, "accumulate_grad_batches": 4}, data, 6, 3),
        (Regression, {"max_epochs": -1, "max_steps": 7}, data, 7, 10),
        (Manual, {"max_epochs": -1, "max_steps": 8}, data, 4, 10),
        (Regression, {"max_epochs": 2, "max_steps": 7, "limit_train_batches": 0.5}, data, 7, 5),
        (Manual, {"max_epochs": 2, "limit_train_batches": 3}, unsized, 6, 3),
        (Regression, {"max_epochs": 2}, lambda: data(drop_last=True, batch_size=7), 20, 10),
        (Regression, {"accumulate": {0: 3, 2: 1}}, data, 18, None),
        (Regression, {"accumulate": {1: 4}}, data, 16, None),
    ],
)
def test_the_length_of_a_run_is_what_the_trainer_then_does(make_trainer, module, options, loader, steps, per_epoch):
    asking, fitted = Asking(), module()
    options = dict(options)
    scheduling = options.pop("accumulate", None)
    trainer = make_trainer(asking, *([GradientAccumulationScheduler(scheduling)] if scheduling else []), **options)
    trainer.fit(fitted, loader())
    assert asking.run.total_steps == steps
    assert trainer.global_step == steps * len(trainer.optimizers)
    assert asking.run.steps_per_epoch == per_epoch


@pytest.mark.parametrize(
    ("options", "loader", "value", "complaint"),
    [
        ({"max_epochs": -1}, data, "auto", r"max_epochs=-1 and no max_steps; set Trainer\(max_steps="),
        ({"max_epochs": None, "max_time": "00:00:01:00"}, data, 0.5, "max_time and no max_steps"),
        ({}, unsized, "auto", r"no length .*limit_train_batches=.*max_steps="),
        ({"max_steps": 5}, unsized, "2ep", "how long an epoch is"),
        ({"accumulate": {1: 2}}, data, "2ep", "GradientAccumulationScheduler changes"),
    ],
)
def test_a_run_of_unknown_length_names_the_key_and_what_would_help(make_trainer, options, loader, value, complaint):
    callback = LRSchedulerCallback({"type": "WarmupDecayLR", "params": {"total_num_steps": value, "warmup_max_lr": 1}})
    options = dict(options)
    scheduling = options.pop("accumulate", None)
    trainer = make_trainer(callback, *([GradientAccumulationScheduler(scheduling)] if scheduling else []), **options)
    with pytest.raises(ValueError, match=complaint) as error:
        trainer.fit(Regression(), loader())
    assert f"scheduler.params.total_num_steps={value!r}" in str(error.value)


AUTO = {
    "type": "WarmupDecayLR",
    "params": {"total_num_steps": "auto", "warmup_num_steps": "1ep", "warmup_max_lr": "auto", "warmup_min_lr": "Auto"},
}
AUTO_RESOLVED = {"total_num_steps": 30, "warmup_num_steps": 10, "warmup_max_lr": 0.01, "warmup_min_lr": 0.0}


class Wired(Regression):
    def configure_optimizers(self) -> Any:
        config = {"optimizer": {"type": "SGD", "params": {"lr": 0.01, "momentum": 0.9}}, "scheduler": AUTO}
        return configure_optimizers(self, config)


@pytest.mark.parametrize("wired", [False, True])
def test_resolved_values_are_used_told_once_and_kept_as_hyperparameters(make_trainer, tmp_path, caplog, wired):
    module = Wired() if wired else Regression()
    callbacks = [] if wired else [LRSchedulerCallback(AUTO)]
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(*callbacks, logger=logger)
    with caplog.at_level(logging.INFO):
        trainer.fit(module, data())
    expected = SchedulerConfig("WarmupDecayLR", AUTO_RESOLVED).build(torch.optim.SGD([torch.zeros(1)], lr=0.01))
    assert [lr for lr, _ in module.seen] == [expected.lr_at(step)[0] for step in range(30)]
    tables = [record.message for record in caplog.records if "as written" in record.message]
    assert len(tables) == 1
    assert all(key in tables[0] for key in AUTO_RESOLVED)
    assert "| 1ep " in tables[0]
    assert logger.experiment.hparams["lr_scheduler"] == {"type": "WarmupDecayLR", **AUTO_RESOLVED}


def test_a_configuration_without_auto_is_not_told(make_trainer, caplog):
    callback = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
    with caplog.at_level(logging.INFO):
        make_trainer(callback, max_epochs=1).fit(Regression(), data())
    assert not any("as written" in record.message for record in caplog.records)


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


# torch's own in the callback --------------------------------------------------------------------------------------


def test_torch_schedulers_run_per_optimizer_step_and_are_logged(make_trainer, tmp_path):
    module, logger = Regression(), CSVLogger(tmp_path)
    callback = LRSchedulerCallback({"type": "ExponentialLR", "params": {"gamma": 0.5}})
    trainer = make_trainer(callback, logger=logger, log_every_n_steps=1, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(module, data())
    assert [lr for lr, _ in module.seen] == pytest.approx([0.01 * 0.5**step for step in range(5)])
    logger.save()
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr-SGD")
    assert [float(line.split(",")[column]) for line in lines[1:]] == pytest.approx([0.01 * 0.5**s for s in range(5)])


def test_torch_schedulers_under_manual_optimization_are_refused(make_trainer):
    callback = LRSchedulerCallback([{"type": "ExponentialLR", "params": {"gamma": 0.5}}, None])
    with pytest.raises(ValueError, match="under manual optimization Lightning never steps ExponentialLR"):
        make_trainer(callback).fit(Manual(), data())


def test_no_trainer_no_run():
    module = LightningModule()
    module.net = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"total_num_steps='auto' needs to know how long the run is, .*pass trainer="):
        configure_optimizers(torch.optim.SGD(module.parameters(), lr=0.1), {"scheduler": AUTO})
