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
    """Train and return the logger."""

    def run(
        logger: TensorBoardLogger, *others: Any, schedule: Any = ONE_CYCLE, module: Any = None
    ) -> TensorBoardLogger:
        trainer = make_trainer(LRSchedulerCallback(schedule), *others, logger=logger, log_every_n_steps=1)
        trainer.fit(module or Regression(), data())
        return logger

    return run


def test_all_lr_are_in_one_chart_and_all_momentum_in_another(fit: Any, tmp_path: Any) -> None:
    logger = fit(TensorBoardLogger(tmp_path), schedule=[ONE_CYCLE, ONE_CYCLE], module=SgdInGroupsAndAdam())
    assert charts(logger) == with_momentum("lr-AdamW", "lr-SGD/pg1", "lr-SGD/rest")


def test_a_loggers_prefix_is_part_of_the_tags(fit: Any, tmp_path: Any) -> None:
    assert charts(fit(TensorBoardLogger(tmp_path, prefix="a.b"))) == with_momentum("a.b-lr-SGD")


def test_without_momentum_there_is_no_chart_for_it(fit: Any, tmp_path: Any) -> None:
    assert charts(fit(TensorBoardLogger(tmp_path), schedule=WARMUP)) == {"lr": {"lr-SGD"}}


class Unfreeze(BaseFinetuning):
    """Adds a param group in the second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


def test_a_group_that_is_added_during_training_has_its_place_in_the_charts(fit: Any, tmp_path: Any) -> None:
    module = Regression(lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], 0.01, 0.9))
    assert charts(fit(TensorBoardLogger(tmp_path), Unfreeze(), module=module)) == with_momentum(
        "lr-SGD", "lr-SGD/pg1", "lr-SGD/pg2"
    )


def test_a_run_that_is_fitted_again_or_resumed_has_one_layout(fit: Any, make_trainer: Any, tmp_path: Any) -> None:
    logger = TensorBoardLogger(tmp_path, version="same")
    callback = LRSchedulerCallback(ONE_CYCLE)
    trainer = make_trainer(callback, logger=logger, log_every_n_steps=1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer.fit_loop.max_epochs = 4
    trainer.fit(Regression(), data())
    resuming = make_trainer(
        LRSchedulerCallback(ONE_CYCLE), logger=TensorBoardLogger(tmp_path, version="same"), max_epochs=5
    )
    resuming.fit(Regression(), data(), ckpt_path=tmp_path / "stopped.ckpt")
    assert charts(logger) == with_momentum("lr-SGD")


def test_a_second_run_of_the_same_callback_has_its_own_layout(make_trainer: Any, tmp_path: Any) -> None:
    callback = LRSchedulerCallback(ONE_CYCLE)
    for logger in (TensorBoardLogger(tmp_path, "first"), TensorBoardLogger(tmp_path, "second")):
        make_trainer(callback, logger=logger, log_every_n_steps=1).fit(Regression(), data())
        assert charts(logger) == with_momentum("lr-SGD")


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
    layouts, _ = read(fit(logger, Own(when)))
    assert [category.title for category in layouts[-1].category] == ["mine"]
    assert len(layouts) == (2 if when == "end" else 1)


def test_a_layout_that_cannot_be_written_ends_nothing(fit: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(layout: Any) -> None:
        raise OSError("disk full")

    logger, module = TensorBoardLogger(tmp_path), Regression()
    monkeypatch.setattr(logger.experiment, "add_custom_scalars", broken)
    with pytest.warns(UserWarning, match="failed to log the lr and momentum curves .OSError: disk full") as caught:
        fit(logger, module=module)
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


@pytest.mark.parametrize("bundle", [1, 7, 100])
def test_every_step_arrives_in_order_whatever_the_bundles(
    make_trainer: Any, tmp_path: Any, bundle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_logger, "MAX_POINTS", bundle)
    logger = TensorBoardLogger(tmp_path)
    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert curves(logger) == in_full(30)


def test_slow_steps_are_shown_without_waiting_for_a_full_bundle(
    make_trainer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_logger, "MAX_WAIT", 0.0)
    waiting: list[int] = []

    class Look(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            waiting.append(len(callback._curves._points))

    callback = LRSchedulerCallback(ONE_CYCLE)
    logger = TensorBoardLogger(tmp_path)
    make_trainer(callback, Look(), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert max(waiting) <= 1


def test_a_run_that_fails_loses_no_point(make_trainer: Any, tmp_path: Any) -> None:
    class Failing(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(self.seen) == 13:
                raise RuntimeError("out of luck")
            return self.loss(batch)

    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Failing(), data())
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


def test_the_tensorboard_prefix_is_kept(make_trainer: Any, tmp_path: Any) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert list(curves(logger)) == ["mine-lr-SGD", "mine-lr-SGD-momentum"]


def test_a_logger_of_the_users_own_gets_each_step_as_metrics(make_trainer: Any, tmp_path: Any) -> None:
    got: list[tuple[int, set[str]]] = []

    class Own(TensorBoardLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                got.append((step, set(metrics)))

    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=Own(tmp_path), log_every_n_steps=1).fit(Regression(), data())
    assert got == [(step, {"lr-SGD", "lr-SGD-momentum"}) for step in range(30)]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_logger_that_fails_is_left_out_with_one_warning_and_training_goes_on(
    make_trainer: Any, tmp_path: Any, kind: Any
) -> None:
    class Broken(kind):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                raise OSError("disk full")

    module, whole = Regression(), CSVLogger(tmp_path / "whole")
    with pytest.warns(UserWarning, match=r"Broken failed to log the lr .* \(OSError: disk full\)") as caught:
        make_trainer(
            LRSchedulerCallback(ONE_CYCLE), logger=[Broken(tmp_path), whole], log_every_n_steps=1
        ).fit(module, data())  # fmt: skip
    assert sum("failed to log" in str(warning.message) for warning in caught) == 1
    assert len(module.seen) == 30
    assert (tmp_path / "whole").exists()


# The curves of every logger -------------------------------------------------------------------------------------------


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


def test_beside_a_monitor_the_callback_logs_no_curves(make_trainer, tmp_path):
    csv, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path)
    callbacks = [LRSchedulerCallback(ONE_CYCLE), LearningRateMonitor()]
    make_trainer(*callbacks, logger=[csv, board], log_every_n_steps=1).fit(Regression(), data())
    assert read_csv(csv) == {"lr-SGD": {step: lr for step, (lr, _) in enumerate(expected(30))}}
    assert read(board) == ([], ["hp_metric", "lr-SGD"])


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
            assert value == pytest.approx(expected(30)[step][column], rel=1e-6)  # event files hold float32


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
    assert read_csv(logger)["lr-SGD"] == {step: expected(30)[step][0] for step in steps}


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
