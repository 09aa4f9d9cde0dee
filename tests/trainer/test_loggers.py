"""The curves of lr and momentum: the layout of TensorBoard's page "Custom Scalars", and what each logger gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig
from lightning_lrsched.trainer import loggers as curve_logger
from tests.kit.modules import Regression, TwoOptimizers, ValidatedRegression, data, read_csv

ONE_CYCLE = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8}}
WARMUP = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}
USERS = {"mine": {"losses": ["Multiline", ["train_loss", "val_loss"]]}}


def read(logger: TensorBoardLogger) -> tuple[list[Layout], list[str]]:
    """Return the layouts of a run in the order of their writing (TensorBoard shows the last), and its scalars' tags."""
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    tensors = (
        events.Tensors("custom_scalars__config__") if "custom_scalars__config__" in events.Tags()["tensors"] else []
    )
    layouts = [Layout.FromString(event.tensor_proto.string_val[0]) for event in tensors]
    return layouts, events.Tags()["scalars"]


def charts(logger: TensorBoardLogger) -> dict[str, set[str]]:
    """Return title -> tags of the charts, the tags found as TensorBoard finds them."""
    (layout,), scalars = read(logger)
    (category,) = layout.category
    assert category.title == "schedule"
    return {
        chart.title: {tag for tag in scalars for pattern in chart.multiline.tag if re.match(pattern, tag)}
        for chart in category.chart
    }


def with_momentum(*names: str) -> dict[str, set[str]]:
    return {"lr": set(names), "momentum": {f"{name}-momentum" for name in names}}


def groups(parameters: Any) -> torch.optim.Optimizer:
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "name": "rest"}], 0.01, momentum=0.9)


class SgdInGroupsAndAdam(Regression):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(self.net[0].parameters()), groups(self.net[4].parameters())]


@pytest.fixture
def fit(make_trainer: Any) -> Any:
    """Train with a schedule, and return the module, which knows its trainer."""

    def run(logger: Any, *others: Any, schedule: Any = ONE_CYCLE, module: Any = None, **options: Any) -> Any:
        module, options = module or Regression(), {"log_every_n_steps": 1, **options}
        callback = schedule if isinstance(schedule, Callback) else LRSchedulerCallback(schedule)
        make_trainer(callback, *others, logger=logger, **options).fit(module, data())
        return module

    return run


@pytest.mark.parametrize(
    ("options", "prefix", "expected"),
    [
        (
            {"schedule": [ONE_CYCLE] * 2, "module": SgdInGroupsAndAdam},
            "",
            with_momentum("lr-AdamW", "lr-SGD/pg1", "lr-SGD/rest"),
        ),
        ({}, "a.b", with_momentum("a.b-lr-SGD")),
        ({"schedule": WARMUP}, "", {"lr": {"lr-SGD"}}),
    ],
    ids=["two optimizers", "a prefix", "no momentum"],
)
def test_all_lr_are_in_one_chart_and_all_momentum_in_another(
    fit: Any, tmp_path: Any, options: Any, prefix: str, expected: Any
) -> None:
    options = {key: value() if key == "module" else value for key, value in options.items()}
    logger = TensorBoardLogger(tmp_path, prefix=prefix)
    fit(logger, **options)
    assert charts(logger) == expected


class Unfreeze(BaseFinetuning):
    """Adds a param group in the second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


def trainable(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in parameters if p.requires_grad], 0.01, momentum=0.9)


def test_a_group_that_is_added_during_training_has_its_place_in_the_charts(fit: Any, tmp_path: Any) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger, Unfreeze(), module=Regression(trainable))
    assert charts(logger) == with_momentum("lr-SGD", "lr-SGD/pg1", "lr-SGD/pg2")


def test_a_run_that_is_fitted_again_or_resumed_has_one_layout_and_another_run_its_own(
    fit: Any, make_trainer: Any, tmp_path: Any
) -> None:
    logger, callback = TensorBoardLogger(tmp_path, version="same"), LRSchedulerCallback(ONE_CYCLE)
    trainer = make_trainer(callback, logger=logger, log_every_n_steps=1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer.fit_loop.max_epochs = 4
    trainer.fit(Regression(), data())
    again = TensorBoardLogger(tmp_path, version="same")
    resuming = make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=again, max_epochs=5)
    resuming.fit(Regression(), data(), ckpt_path=tmp_path / "stopped.ckpt")
    assert charts(logger) == with_momentum("lr-SGD")
    other = TensorBoardLogger(tmp_path, "other")
    fit(other, schedule=callback)
    assert charts(other) == with_momentum("lr-SGD")


class Own(Callback):
    """Writes the user's own layout when training starts, or when it ends."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.when == "start":
            trainer.logger.experiment.add_custom_scalars(USERS)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.when == "end":
            trainer.logger.experiment.add_custom_scalars(USERS)


@pytest.mark.parametrize("when", ["before", "start", "end"])
def test_the_users_own_layout_is_the_one_that_tensorboard_shows(fit: Any, tmp_path: Any, when: str) -> None:
    logger = TensorBoardLogger(tmp_path)
    if when == "before":
        logger.experiment.add_custom_scalars(USERS)
    fit(logger, Own(when))
    layouts, _ = read(logger)
    assert [category.title for category in layouts[-1].category] == ["mine"]
    assert len(layouts) == (2 if when == "end" else 1)


def test_a_layout_that_cannot_be_written_ends_nothing(fit: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(layout: Any) -> None:
        raise OSError("disk full")

    logger = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(logger.experiment, "add_custom_scalars", broken)
    with pytest.warns(UserWarning, match="failed to log the lr and momentum curves .OSError: disk full") as caught:
        module = fit(logger)
    assert sum("failed to log" in str(warning.message) for warning in caught) == 1
    assert len(module.seen) == 30


def expected(steps: int) -> list[tuple[float, float]]:
    """(lr, momentum) of the first steps, from the pure functions."""
    schedule = SchedulerConfig.of(ONE_CYCLE).build(torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9))
    return [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(steps)]


# Curves in bundles ----------------------------------------------------------------------------------------------------


def curves(logger: TensorBoardLogger) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "lr-" in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def in_full(steps: int) -> dict[str, list[tuple[int, Any]]]:
    values = expected(steps)
    return {
        tag: [(step, pytest.approx(values[step][column], rel=1e-6)) for step in range(steps)]
        for column, tag in enumerate(("lr-SGD", "lr-SGD-momentum"))
    }


@pytest.mark.parametrize(("bundle", "wait", "prefix"), [(1, 9, ""), (7, 9, ""), (100, 9, "mine"), (100, 0, "")])
def test_every_step_arrives_in_order_whatever_the_bundles(
    fit: Any, tmp_path: Any, bundle: int, wait: float, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_logger, "MAX_POINTS", bundle)
    monkeypatch.setattr(curve_logger, "MAX_WAIT", wait)
    waiting: list[int] = []

    class Look(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            waiting.append(len(callback._curves._points))

    logger, callback = TensorBoardLogger(tmp_path, prefix=prefix), LRSchedulerCallback(ONE_CYCLE)
    fit(logger, Look(), schedule=callback)
    assert curves(logger) == {f"{prefix}-{tag}" if prefix else tag: values for tag, values in in_full(30).items()}
    assert max(waiting) <= (bundle if wait else 1)


def test_a_run_that_fails_loses_no_point(fit: Any, tmp_path: Any) -> None:
    class Failing(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(self.seen) == 13:
                raise RuntimeError("out of luck")
            return self.loss(batch)

    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(logger, module=Failing())
    logger.experiment.flush()
    assert curves(logger) == in_full(13)


def test_before_validations_and_checkpoints_everything_is_handed_over(make_trainer: Any, tmp_path: Any) -> None:
    waiting: list[int] = []

    class Look(ModelCheckpoint):
        def on_validation_end(self, *args: Any) -> None:
            waiting.append(len(callback._curves._points))

        def state_dict(self) -> dict[str, Any]:
            waiting.append(len(callback._curves._points))
            return super().state_dict()

    callback = LRSchedulerCallback(ONE_CYCLE)
    options = {"log_every_n_steps": 1, "val_check_interval": 3, "enable_checkpointing": True, "num_sanity_val_steps": 0}
    trainer = make_trainer(Look(tmp_path / "checkpoints"), callback, logger=TensorBoardLogger(tmp_path), **options)
    trainer.fit(ValidatedRegression(), data(), data(2))
    assert set(waiting) == {0}


def test_a_logger_of_the_users_own_gets_each_step_as_metrics(fit: Any, tmp_path: Any) -> None:
    got: list[tuple[int, set[str]]] = []

    class Own(TensorBoardLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                got.append((step, set(metrics)))

    fit(Own(tmp_path))
    assert got == [(step, {"lr-SGD", "lr-SGD-momentum"}) for step in range(30)]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_logger_that_fails_is_left_out_with_one_warning_and_training_goes_on(
    fit: Any, tmp_path: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(kind):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                raise OSError("disk full")

    with pytest.warns(UserWarning, match=r"Broken failed to log the lr .* \(OSError: disk full\)") as caught:
        module = fit([Broken(tmp_path), CSVLogger(tmp_path / "whole")])
    assert sum("failed to log" in str(warning.message) for warning in caught) == 1
    assert len(module.seen) == 30
    assert (tmp_path / "whole").exists()

    def broken(trainer: Any) -> Any:
        raise KeyError("no such optimizer")

    monkeypatch.setattr(curve_logger, "curve_tags", broken)
    with pytest.warns(UserWarning, match="failed to log the lr and momentum curves .KeyError"):
        assert len(fit(kind(tmp_path)).seen) == 30


# The curves of every logger -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, groups, lambda p: torch.optim.Adam(p, 0.01)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_curves_have_the_monitors_tags_and_the_schedules_values(fit, tmp_path, optimizer, accumulate):
    ours, theirs = CSVLogger(tmp_path, "ours"), CSVLogger(tmp_path, "theirs")
    callback, options = LRSchedulerCallback(ONE_CYCLE), {"log_every_n_steps": 2, "accumulate_grad_batches": accumulate}
    fit(ours, schedule=callback, module=Regression(optimizer), **options)
    if accumulate == 1:
        fit(theirs, LearningRateMonitor(log_momentum=True), module=Regression(optimizer), **options)
        assert read_csv(ours) == read_csv(theirs)

    schedule = callback.schedulers[0]
    steps = [step for step in range(schedule.last_epoch) if (step + 1) % 2 == 0]
    curves = read_csv(ours)
    for tag, values in curves.items():
        group = 1 if tag.startswith("lr-SGD/rest") else 0
        value_at = schedule.momentum_at if tag.endswith("momentum") else schedule.lr_at
        assert values == {step: value_at(step)[group] for step in steps}
    assert len(curves) == 2 * len(schedule.optimizer.param_groups)


def test_two_optimizers_of_one_class_have_the_monitors_tags(fit, tmp_path):
    ours, theirs, both = CSVLogger(tmp_path, "ours"), CSVLogger(tmp_path, "theirs"), [ONE_CYCLE, WARMUP]
    fit(ours, schedule=both, module=TwoOptimizers())
    fit(theirs, LearningRateMonitor(log_momentum=True), schedule=both, module=TwoOptimizers())
    # The monitor also logs a momentum that nobody schedules.
    assert set(read_csv(ours)) == set(read_csv(theirs)) - {"lr-SGD-1-momentum"}


def test_beside_a_monitor_or_with_log_false_the_callback_logs_no_curves(fit, tmp_path):
    csv, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path)
    fit([csv, board], LearningRateMonitor())
    assert read_csv(csv) == {"lr-SGD": {step: lr for step, (lr, _) in enumerate(expected(30))}}
    assert read(board) == ([], ["hp_metric", "lr-SGD"])
    nothing = CSVLogger(tmp_path, "nothing")
    fit(nothing, schedule=LRSchedulerCallback(ONE_CYCLE, log=False))
    assert not (Path(nothing.log_dir) / "metrics.csv").exists()


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
def test_several_steps_per_batch_do_not_thin_the_curves(fit, tmp_path, every, steps):
    logger = CSVLogger(tmp_path)
    fit(logger, module=ManySteps(), log_every_n_steps=every, max_epochs=1)
    assert read_csv(logger)["lr-SGD"] == {step: expected(30)[step][0] for step in steps}


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
@pytest.mark.filterwarnings("ignore:.*StepLR")
def test_a_group_that_is_added_under_torchs_own_scheduler_does_not_end_training(fit, tmp_path, kind):
    logger = kind(tmp_path)
    module = fit(
        logger, Unfreeze(), schedule={"type": "StepLR", "params": {"step_size": 100}}, module=Regression(trainable)
    )
    assert module.trainer.global_step == 30
    if kind is CSVLogger:
        curves = read_csv(logger)
        assert list(curves["lr-SGD"]) == list(range(10))
        assert list(curves["lr-SGD/pg1"]) == list(range(10, 30))
