"""What TensorBoard's page "Custom Scalars" is told: all lr in one chart, all momentum in another."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_lrsched import LRSchedulerCallback
from tests.kit.modules import Regression, data

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


class TwoOptimizers(Regression):
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
    logger = fit(TensorBoardLogger(tmp_path), schedule=[ONE_CYCLE, ONE_CYCLE], module=TwoOptimizers())
    assert charts(logger) == with_momentum("lr-AdamW", "lr-SGD/pg1", "lr-SGD/rest")


def test_a_loggers_prefix_is_part_of_the_tags(fit: Any, tmp_path: Any) -> None:
    assert charts(fit(TensorBoardLogger(tmp_path, prefix="a.b"))) == with_momentum("a.b-lr-SGD")


def test_without_momentum_there_is_no_chart_for_it(fit: Any, tmp_path: Any) -> None:
    assert charts(fit(TensorBoardLogger(tmp_path), schedule=WARMUP)) == {"lr": {"lr-SGD"}}


def test_what_a_monitor_logs_has_its_place_in_the_charts(fit: Any, tmp_path: Any) -> None:
    monitor = LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    assert charts(fit(TensorBoardLogger(tmp_path), monitor, schedule=WARMUP)) == with_momentum("lr-SGD")


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
