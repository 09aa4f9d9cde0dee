"""The length of a run: of a first fit, and of one that goes on: after a resume with other settings, in a second fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_lrsched import LRSchedulerCallback, configure_optimizers
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.run_length import run_length_of
from tests.kit.modules import Regression, ValidatedRegression, data, read_csv
from tests.kit.runs import Net, RestoresLater, StatefulLoader, quiet_trainer

DECAY = {
    "type": "WarmupDecayLR",
    "params": {"warmup_max_lr": 0.1, "warmup_num_steps": "auto", "total_num_steps": "auto"},
}
EPOCHS = {"type": "WarmupDecayLR", "params": {**DECAY["params"], "warmup_num_steps": 2, "total_num_steps": "4ep"}}

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:.* resumes at step"),
]


class Asking(Callback):
    """Notes the length of the run before it begins."""

    run: RunLength

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.run = run_length_of(trainer)


class SaveEverywhere(Callback):
    """Keeps a checkpoint of every moment at which Lightning saves some."""

    def __init__(self) -> None:
        self.checkpoints: list[dict[str, Any]] = []

    def keep(self, trainer: Any, *args: Any) -> None:
        self.checkpoints.append(copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint()))

    on_train_batch_end = on_validation_end = on_train_epoch_end = on_train_end = keep


@pytest.fixture(scope="module")
def checkpoints() -> list[dict[str, Any]]:
    from lightning.pytorch import Trainer

    from tests.kit.modules import QUIET

    save = SaveEverywhere()
    trainer = Trainer(callbacks=[save], max_epochs=2, num_sanity_val_steps=0, accumulate_grad_batches=3, **QUIET)
    trainer.fit(ValidatedRegression(), data(), data(2))
    return save.checkpoints


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 8, "accumulate_grad_batches": 3},
        {"batch_size": 16},
        {"batch_size": 16, "accumulate_grad_batches": 2},
        {"batch_size": 5},
        {"max_steps": 17},
        {"max_epochs": -1, "max_steps": 17},
        {"scheduling": {1: 2, 3: 5}},
    ],
    ids=str,
)
def test_steps_done_plus_steps_to_come_is_where_a_resumed_run_ends(make_trainer, tmp_path, checkpoints, options):
    options = {"max_epochs": 4, "num_sanity_val_steps": 0, **options}
    batch_size, scheduling = options.pop("batch_size", 8), options.pop("scheduling", None)
    callbacks = [GradientAccumulationScheduler(scheduling)] if scheduling else []
    for checkpoint in checkpoints[::2] + checkpoints[-3:]:
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        if scheduling and epoch["processed"] < epoch["started"]:
            continue  # Lightning 2.6 accumulates nothing in the rest of such an epoch
        torch.save(checkpoint, tmp_path / "saved.ckpt")
        asking = Asking()
        trainer = make_trainer(asking, *callbacks, **options)
        loader = data(batches=80 // batch_size, batch_size=batch_size)
        trainer.fit(ValidatedRegression(), loader, data(2), ckpt_path=tmp_path / "saved.ckpt")
        assert asking.run.total_steps == trainer.global_step


def saved_after_two_epochs(make_trainer: Any, tmp_path: Any, config: Any) -> Any:
    trainer = make_trainer(LRSchedulerCallback(config), max_epochs=2)
    trainer.fit(Regression(), data(batches=32))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    return tmp_path / "saved.ckpt"


class Wired(Regression):
    """The same schedule, from the module's configure_optimizers."""

    config: Any = None

    def configure_optimizers(self) -> Any:
        return configure_optimizers(super().configure_optimizers(), self.config, trainer=self.trainer)


@pytest.mark.parametrize("wired", [False, True])
@pytest.mark.parametrize("config", [DECAY, EPOCHS], ids=["auto", "epochs"])
@pytest.mark.parametrize(("batches", "options", "total"), [
    (32, {}, 128), (8, {}, 80), (64, {}, 192), (32, {"accumulate_grad_batches": 4}, 80), (32, {"max_epochs": 3}, 96),
])  # fmt: skip
def test_a_resumed_schedule_ends_where_the_run_ends(make_trainer, tmp_path, config, batches, options, total, wired):
    path = saved_after_two_epochs(make_trainer, tmp_path, config)
    options = {"max_epochs": 4, **options}
    if config is EPOCHS:
        config = {**EPOCHS, "params": {**EPOCHS["params"], "total_num_steps": f"{options['max_epochs']}ep"}}
    module = Wired() if wired else Regression()
    module.config = config
    trainer = make_trainer(*([] if wired else [LRSchedulerCallback(config)]), **options)
    trainer.fit(module, data(batches=batches), ckpt_path=path)
    [schedule] = [config.scheduler for config in trainer.lr_scheduler_configs]
    assert schedule.hyperparameters["total_num_steps"] == schedule.last_epoch == total
    assert all(lr > 0 for lr, _ in module.seen)


def test_a_second_fit_has_the_length_of_what_it_will_do(make_trainer, tmp_path):
    module, callback, logger = Regression(), LRSchedulerCallback(DECAY), CSVLogger(tmp_path)
    trainer = make_trainer(callback, max_epochs=2, logger=logger, log_every_n_steps=1)
    trainer.fit(module, data(batches=32))
    first = callback.schedulers[0]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, data(batches=32))
    second = callback.schedulers[0]
    assert (first.total_num_steps, second.total_num_steps) == (64, 32)
    assert second.last_epoch == 32
    # The curves go on where the trainer's steps are, beside those of the loss.
    lrs = [first.lr_at(step)[0] for step in range(64)] + [second.lr_at(step)[0] for step in range(32)]
    assert read_csv(logger)["lr-SGD"] == dict(enumerate(lrs))


def test_max_steps_in_a_second_fit(make_trainer):
    callback = LRSchedulerCallback(DECAY)
    trainer = make_trainer(callback, max_steps=20, max_epochs=-1)
    trainer.fit(Regression(), data())
    trainer.fit_loop.epoch_loop.max_steps = 35
    trainer.fit(Regression(), data())
    assert callback.schedulers[0].total_num_steps == callback.schedulers[0].last_epoch == 15


# What else a resume must not lose -------------------------------------------------------------------------------------


def test_asking_for_the_length_does_not_lose_the_position_of_a_loader(tmp_path):
    class Noting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches.append(float(batch[0].sum()))
            return self.loss(batch)

    whole, resumed = Noting(), Noting()
    quiet_trainer(tmp_path, LRSchedulerCallback(DECAY), max_steps=12).fit(whole, StatefulLoader())
    first = quiet_trainer(tmp_path, LRSchedulerCallback(DECAY), max_steps=7)
    first.fit(Noting(), StatefulLoader())
    first.save_checkpoint(tmp_path / "saved.ckpt")
    second = quiet_trainer(tmp_path, LRSchedulerCallback(DECAY), max_steps=12)
    second.fit(resumed, StatefulLoader(), ckpt_path=tmp_path / "saved.ckpt")
    assert resumed.batches == whole.batches[7:]


def test_a_strategy_that_loads_after_setup_resolves_the_same_lengths(make_trainer, tmp_path):
    path = saved_after_two_epochs(make_trainer, tmp_path, DECAY)
    module, callback, logger = Regression(), LRSchedulerCallback(DECAY), CSVLogger(tmp_path)
    trainer = make_trainer(callback, max_epochs=4, strategy=RestoresLater(), logger=logger)
    trainer.fit(module, data(batches=8), ckpt_path=path)
    [schedule] = callback.schedulers
    assert [config.scheduler for config in trainer.lr_scheduler_configs] == [schedule]
    assert schedule.total_num_steps == schedule.last_epoch == 80
    assert [lr for lr, _ in module.seen] == [schedule.lr_at(step)[0] for step in range(64, 80)]
    assert logger.experiment.hparams["lr_scheduler"]["total_num_steps"] == 80


def test_nothing_of_a_checkpoint_is_kept_after_a_test(make_trainer, tmp_path):
    class Tested(Regression):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    path = saved_after_two_epochs(make_trainer, tmp_path, DECAY)
    callback = LRSchedulerCallback(DECAY)
    make_trainer(callback).test(Tested(), data(), ckpt_path=path, verbose=False)
    assert not [value for value in vars(callback).values() if isinstance(value, dict) and "state_dict" in value]


def test_a_schedule_goes_on_with_an_optimizer_that_replaces_its_own(make_trainer):
    class Replaced(Regression):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.trainer.strategy.optimizers = [torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.1)]

    module, callback = Replaced(), LRSchedulerCallback(DECAY)
    make_trainer(callback).fit(module, data())
    [schedule] = callback.schedulers
    assert schedule.last_epoch == 30
    assert [lr for lr, _ in module.seen] == [schedule.lr_at(step)[0] for step in range(30)]


def test_a_file_is_read_once(make_trainer, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"optimizer": {"type": "Adam"}, "scheduler": DECAY}))
    callback = LRSchedulerCallback(path)
    path.unlink()
    make_trainer(callback).fit(Regression(), data())
    assert callback.schedulers[0].last_epoch == 30


def test_a_scheduler_of_torch_is_refused_before_the_lr_is_written(make_trainer):
    class Manual(Regression):
        automatic_optimization = False

    module = Manual()
    trainer = make_trainer(LRSchedulerCallback({"type": "LinearLR", "params": {"start_factor": 0.1}}))
    with pytest.raises(ValueError, match="under manual optimization Lightning never steps LinearLR"):
        trainer.fit(module, data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01


# A first fit ----------------------------------------------------------------------------------------------------------


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
