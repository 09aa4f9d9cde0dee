"""Beside Lightning's own callbacks, and in the other distribution of Lightning."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.loggers import CSVLogger

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, SchedulerConfig
from tests.kit.modules import Notes
from tests.kit.runs import (
    BATCHES,
    CONFIGS,
    ONE_CYCLE,
    Net,
    StatefulLoader,
    ValidatedNet,
    adamw,
    fit,
    quiet_trainer,
    sgd,
)
from tests.kit.versions import not_in_lightning

EPOCHS = 4


def expected(config: Any, steps: int, make: Any = adamw) -> list[list[tuple[float, float]]]:
    schedule = SchedulerConfig.of(config).build(make(Net()))
    momenta = [schedule.momentum_at(step) or [0.9, 0.9] for step in range(steps)]
    return [list(zip(schedule.lr_at(step), momenta[step], strict=True)) for step in range(steps)]


def used_by(module: Net) -> list[Any]:
    return [values for _, values in module.used]


def weight_averaging() -> Any:
    if not hasattr(lightnings, "WeightAveraging"):
        pytest.skip("this Lightning has no WeightAveraging")
    return lightnings.WeightAveraging()


def of_an_extra(package: str, make: Any) -> Any:
    pytest.importorskip(package, reason=f"{package} is not installed")
    return make()


ONE_BY_ONE = {
    "EarlyStopping": lambda folder: lightnings.EarlyStopping("val_loss", patience=100),
    "ModelCheckpoint": lambda folder: lightnings.ModelCheckpoint(folder / "saved", every_n_train_steps=2),
    "WeightAveraging": lambda folder: weight_averaging(),
    "LearningRateMonitor": lambda folder: lightnings.LearningRateMonitor("step", log_momentum=True),
    "DeviceStatsMonitor": lambda folder: of_an_extra("psutil", lambda: lightnings.DeviceStatsMonitor(cpu_stats=True)),
    "RichProgressBar": lambda folder: of_an_extra("rich", lightnings.RichProgressBar),
    "TQDMProgressBar": lambda folder: lightnings.TQDMProgressBar(),
    "RichModelSummary": lambda folder: of_an_extra("rich", lightnings.RichModelSummary),
    "Timer": lambda folder: lightnings.Timer(),
    "GradientAccumulationScheduler": lambda folder: lightnings.GradientAccumulationScheduler({0: 1}),
    "LambdaCallback": lambda folder: lightnings.LambdaCallback(),
}


def train(folder: Path, config: Any, *callbacks: Any, ours_first: bool = True, **options: Any) -> ValidatedNet:
    module, ours = ValidatedNet(adamw), LRSchedulerCallback(config)
    bars = [isinstance(callback, lightnings.ProgressBar) for callback in callbacks]
    checkpoints = [isinstance(callback, lightnings.Checkpoint) for callback in callbacks]
    defaults = {
        "logger": CSVLogger(folder), "log_every_n_steps": 1, "max_steps": -1, "max_epochs": EPOCHS,
        "enable_progress_bar": any(bars), "enable_checkpointing": any(checkpoints),
        "enable_model_summary": any(isinstance(callback, lightnings.ModelSummary) for callback in callbacks),
    }  # fmt: skip
    everything = [ours, *callbacks] if ours_first else [*callbacks, ours]
    trainer = quiet_trainer(folder, *everything, **{**defaults, **options})
    trainer.fit(module, StatefulLoader(), StatefulLoader())
    return module


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_each_of_lightnings_callbacks_leaves_the_schedule_alone(tmp_path, name, ours_first):
    module = train(tmp_path, ONE_CYCLE, ONE_BY_ONE[name](tmp_path), ours_first=ours_first)
    assert used_by(module) == expected(ONE_CYCLE, EPOCHS * BATCHES)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
@pytest.mark.parametrize("name", CONFIGS)
def test_all_of_them_together_leave_it_alone_too(tmp_path, name, bar, ours_first):
    together = [
        ONE_BY_ONE[other](tmp_path) for other in ONE_BY_ONE if not other.endswith("ProgressBar") and other != "Timer"
    ]
    module = train(tmp_path, CONFIGS[name], *together, ONE_BY_ONE[bar](tmp_path), ours_first=ours_first)
    assert used_by(module) == expected(CONFIGS[name], EPOCHS * BATCHES)
    # Logged once, by the monitor, at the step that was made with it.
    with (Path(module.trainer.logger.log_dir) / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("lr-AdamW/pg1")]
    logged = [float(row["lr-AdamW/pg1"]) for row in rows]
    assert logged == [values[0][0] for values in expected(CONFIGS[name], EPOCHS * BATCHES)]


@pytest.mark.parametrize("name", CONFIGS)
def test_accumulation_that_changes_from_epoch_to_epoch_is_counted_in_steps(tmp_path, name):
    module = train(tmp_path, CONFIGS[name], lightnings.GradientAccumulationScheduler({0: 1, 1: 2, 3: 5}))
    steps = 5 + 3 + 3 + 1  # the last batch of an epoch ends a window
    assert used_by(module) == expected(CONFIGS[name], steps)


def test_early_stopping_ends_the_schedule_where_it_ends_the_run(tmp_path):
    stopping = lightnings.EarlyStopping("val_loss", patience=0, min_delta=1e9)
    module = train(tmp_path, ONE_CYCLE, stopping)
    assert used_by(module) == expected(ONE_CYCLE, 2 * BATCHES)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # on purpose: nothing is overwritten
@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("name", CONFIGS)
def test_any_of_the_checkpoints_that_modelcheckpoint_wrote_resumes_the_run(tmp_path, name, every):
    def train(folder: Path, ckpt_path: Path | None = None) -> Net:
        saver = lightnings.ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
        return fit(tmp_path, CONFIGS[name], adamw, saver, ckpt_path=ckpt_path, enable_checkpointing=True)

    whole = train(tmp_path / "saved")
    paths = sorted((tmp_path / "saved").glob("*.ckpt"))
    assert len(paths) == 16 // every
    for path in paths[:: max(1, len(paths) // 3)]:
        step = int(path.stem.partition("=")[2])
        assert train(tmp_path / f"from {step}", path).used == whole.used[step:]


def test_weight_averaging_resumes_with_the_schedule(tmp_path):
    whole = fit(tmp_path, ONE_CYCLE, adamw, weight_averaging())
    begun = fit(tmp_path, ONE_CYCLE, adamw, weight_averaging(), max_steps=7)
    begun.trainer.save_checkpoint(tmp_path / "x.ckpt")
    resumed = fit(tmp_path, ONE_CYCLE, adamw, weight_averaging(), ckpt_path=tmp_path / "x.ckpt")
    assert resumed.used == whole.used[7:]


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_batch_size_finder_uses_up_no_step_of_the_schedule(tmp_path, ours_first):
    class Sized(Net):
        batch_size = 2

        def train_dataloader(self) -> Any:
            inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
            return torch.utils.data.DataLoader(list(zip(inputs, inputs[:, :1], strict=True)), self.batch_size)

    module, ours = Sized(sgd), LRSchedulerCallback(ONE_CYCLE)
    finder = lightnings.BatchSizeFinder(max_trials=2, steps_per_trial=2, batch_arg_name="batch_size")
    trainer = quiet_trainer(tmp_path, *([ours, finder] if ours_first else [finder, ours]), max_steps=-1, max_epochs=2)
    trainer.fit(module)
    assert ours.schedulers[0].last_epoch == trainer.global_step > 0
    assert used_by(module)[-trainer.global_step :] == expected(ONE_CYCLE, trainer.global_step, sgd)


# The other distribution ---------------------------------------------------------------------------------------------


@not_in_lightning("2.5", "Trainers of pytorch_lightning refuse callbacks that derive from lightning's")
def test_in_pytorch_lightnings_trainer_both_callbacks_work_and_resume(tmp_path):
    other = pytest.importorskip("pytorch_lightning", reason="the other distribution is not installed")

    class OtherNet(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net = torch.nn.Linear(4, 1)
            self.used: list[Any] = Notes()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            group = optimizer.param_groups[0]
            self.used.append((group["lr"], group["momentum"]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)

    def train(*callbacks: Any, ckpt_path: Any = None, **options: Any) -> OtherNet:
        module = OtherNet()
        trainer = quiet_trainer(tmp_path, *callbacks, trainer_class=other.Trainer, **options)
        trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
        return module

    schedule = SchedulerConfig.of(ONE_CYCLE).build(torch.optim.SGD([torch.zeros(1)], 0.01, momentum=0.9))
    values = [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(16)]
    assert train(LRSchedulerCallback(ONE_CYCLE)).used == values

    train(LRSchedulerCallback(ONE_CYCLE), max_steps=7).trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert train(LRSchedulerCallback(ONE_CYCLE), ckpt_path=tmp_path / "x.ckpt").used == values[7:]

    train(max_steps=7).trainer.save_checkpoint(tmp_path / "without.ckpt")
    with pytest.warns(UserWarning, match="the schedule continues from step 7"):
        assert train(LRSchedulerCallback(ONE_CYCLE), ckpt_path=tmp_path / "without.ckpt").used == values[7:]

    test = LRRangeTestCallback(max_lr=1.0, num_steps=20)
    module = train(test, max_steps=-1, max_epochs=2)
    assert [lr for lr, _ in module.used][: len(test.result.lrs)] == test.result.lrs

    rival = other.callbacks.StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(ValueError, match="StochasticWeightAveraging sets the lr"):
        train(LRSchedulerCallback(ONE_CYCLE), rival)
