"""The length of a run: the table of its epochs, what a Trainer then does, and runs that go on or begin again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_lrsched import LRSchedulerCallback, configure_optimizers
from lightning_lrsched.trainer.horizon import ENDLESS, Limits, Start, horizon_in, horizon_of, steps_in
from lightning_lrsched.trainer.protocol import repeats_last_batch
from tests.kit.modules import QUIET, Regression, ValidatedRegression, data, read_csv
from tests.kit.runs import Net, RestoresLater, StatefulLoader, quiet_trainer

WARMUP = {"warmup_max_lr": 0.1, "warmup_num_steps": 2}
DECAY = {"type": "WarmupDecayLR", "params": {**WARMUP, "total_num_steps": "auto"}}

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:.* resumes at step"),
]

# The table ------------------------------------------------------------------------------------------------------------

LONG = 10**12


@pytest.mark.parametrize(
    ("limits", "start", "total", "per_epoch"),
    [
        (Limits(10, 3), Start(), 30, 10),
        (Limits(10, LONG, {0: 3}), Start(), 4 * LONG, 4),
        (Limits(10, 3, {0: 4}), Start(), 9, 3),
        (Limits(10, 4, {0: 1, 1: 4, 3: 2}), Start(), 10 + 3 + 3 + 5, 21 / 4),
        (Limits(10, 3, steps=12), Start(), 12, 10),
        (Limits(10, steps=12), Start(), 12, 10),
        (Limits(10), Start(), None, 10),
        (Limits(ENDLESS, 3), Start(), None, None),
        (Limits(every={0: 4}, steps=7), Start(), 7, None),
        # a resume: what was done, and what is still to come; an epoch is an average epoch
        (Limits(10, 3), Start(13, 13, 1, 3), 30, 10),
        (Limits(20, 3), Start(10, 10, 1), 50, 50 / 3),
        (Limits(10, 3, {0: 4}), Start(4, 4, 1, 6), 4 + 2 + 3, 3),
        (Limits(10, 3, {0: 4}), Start(6, 6, 1, 10), 9, 3),
        (Limits(5, 3), Start(7, 7, 0, 7, after_batch=True), 22, 22 / 3),
        (Limits(10, 3, steps=4), Start(13, 13, 1, 3), 17, 10),
        (Limits(10, 3, steps=0), Start(13, 13, 1, 3), 13, 10),
        # a second fit is a run of its own
        (Limits(10, 5), Start(epochs=3, first=3), 20, 10),
        (Limits(10, 3), Start(epochs=3, first=3), 0, 10),
        # an engine's groups go on in the next epoch, where Lightning counts the full groups of each epoch
        (Limits(10, 3, {0: 4}, carries=True), Start(), 7, 2.5),
        (Limits(10, 3, {0: 4}, 5, carries=True), Start(), 6, 2.5),
        (Limits(3, 8, {0: 4}, 5, carries=True), Start(), 6, 0.75),
        (Limits(10, 3, {0: 4}, carries=True), Start(2, 2, 1), 7, 7 / 3),
        (Limits(10, LONG, {0: 4}, carries=True), Start(), 10 * LONG // 4, 2.5),
    ],
    ids=str,
)
def test_the_length_of_a_run_and_of_an_epoch(limits, start, total, per_epoch):
    found = horizon_in(limits, start, start.steps, steps_in(limits))
    assert found == (total, per_epoch)


@pytest.mark.parametrize("batches", [1, 4, 10, 11])
@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("carries", [False, True])
def test_the_table_is_what_a_loop_over_the_batches_counts(batches, every, carries):
    for begun in range(batches):
        steps, ends = 0, {0: 0}
        for batch, number in enumerate(range(begun, 8 * batches), start=1):
            full = (number % batches + 1) % every == 0
            # As in Lightning's loop: under DeepSpeed a group that an epoch leaves unfinished is not counted.
            if full or (not carries and (number + 1) % batches == 0):
                steps += 1
                ends[steps] = batch
        for limit, last in ends.items():
            limits = Limits(batches, 8, {0: every}, limit, carries)
            rows = limits.rows(Start(batches=begun))
            held = sum(row.epochs * row.batches for row in rows)
            assert held == (last - last % every if carries else last)


# What a Trainer then does ---------------------------------------------------------------------------------------------


class Asking(Callback):
    """Notes the length of the run before it begins."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.run = horizon_of(trainer)


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

    save = SaveEverywhere()
    trainer = Trainer(callbacks=[save], max_epochs=2, num_sanity_val_steps=0, accumulate_grad_batches=3, **QUIET)
    trainer.fit(ValidatedRegression(), data(), data(2))
    return save.checkpoints


def schedulers(options: dict[str, Any]) -> list[Any]:
    return [GradientAccumulationScheduler(options.pop("scheduling"))] if "scheduling" in options else []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 8, "accumulate_grad_batches": 3},
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
    batch_size, varying = options.pop("batch_size", 8), "scheduling" in options
    callbacks = schedulers(options)
    for checkpoint in checkpoints[::2] + checkpoints[-3:]:
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        if varying and epoch["processed"] < epoch["started"]:
            continue  # Lightning 2.6 accumulates nothing in the rest of such an epoch
        torch.save(checkpoint, tmp_path / "saved.ckpt")
        asking = Asking()
        trainer = make_trainer(asking, *callbacks, **options)
        done = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"]
        if repeats_last_batch(trainer) and epoch["processed"] < epoch["started"] and done >= 80 // batch_size:
            continue  # Lightning before 2.6 makes one batch more of an epoch that is over now
        loader = data(batches=80 // batch_size, batch_size=batch_size)
        trainer.fit(ValidatedRegression(), loader, data(2), ckpt_path=tmp_path / "saved.ckpt")
        assert asking.run.total == trainer.global_step


class Unsized(IterableDataset):
    def __iter__(self):
        yield from ((torch.zeros(8, 4), torch.zeros(8, 1)) for _ in range(10))


def unsized() -> DataLoader:
    return DataLoader(Unsized(), batch_size=None)


class Manual(Regression):
    """Two optimizers, each stepped once per batch."""

    automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9) for _ in range(2)]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


@pytest.mark.parametrize(
    ("module", "options", "loader", "steps", "per_epoch"),
    [
        (Regression, {}, data, 30, 10),
        (Manual, {}, data, 30, 10),
        (Regression, {"max_epochs": 2, "accumulate_grad_batches": 4}, data, 6, 3),
        (Manual, {"max_epochs": -1, "max_steps": 8}, data, 4, 10),
        (Regression, {"max_epochs": 2, "max_steps": 7, "limit_train_batches": 0.5}, data, 7, 5),
        (Manual, {"max_epochs": 2, "limit_train_batches": 3}, unsized, 6, 3),
        (Regression, {"max_epochs": 2}, lambda: data(drop_last=True, batch_size=7), 20, 10),
        (Regression, {"scheduling": {0: 3, 2: 1}}, data, 18, None),
    ],
)
def test_the_length_of_a_run_is_what_the_trainer_then_does(make_trainer, module, options, loader, steps, per_epoch):
    asking, options = Asking(), dict(options)
    trainer = make_trainer(asking, *schedulers(options), **options)
    trainer.fit(module(), loader())
    assert (asking.run.total, asking.run.per_epoch) == (steps, per_epoch)
    assert trainer.global_step == steps * len(trainer.optimizers)


@pytest.mark.parametrize(
    ("options", "loader", "value", "complaint"),
    [
        ({"max_epochs": -1}, data, "auto", r"max_epochs=-1 and no max_steps; set Trainer\(max_steps="),
        ({"max_epochs": None, "max_time": "00:00:01:00"}, data, 0.5, "max_time and no max_steps"),
        ({}, unsized, "auto", r"no length .*limit_train_batches=.*max_steps="),
        ({"max_steps": 5}, unsized, "2ep", "how long an epoch is"),
        ({"scheduling": {1: 2}}, data, "2ep", "GradientAccumulationScheduler changes"),
    ],
)
def test_a_run_of_unknown_length_names_the_key_and_what_would_help(make_trainer, options, loader, value, complaint):
    callback, options = LRSchedulerCallback({**DECAY, "params": {**WARMUP, "total_num_steps": value}}), dict(options)
    trainer = make_trainer(callback, *schedulers(options), **options)
    with pytest.raises(ValueError, match=complaint) as error:
        trainer.fit(Regression(), loader())
    assert f"scheduler.params.total_num_steps={value!r}" in str(error.value)


# A schedule ends where its run ends -----------------------------------------------------------------------------------


class Wired(Regression):
    """The schedule comes from the module's configure_optimizers."""

    config: Any = None

    def configure_optimizers(self) -> Any:
        return configure_optimizers(super().configure_optimizers(), self.config, trainer=self.trainer)


def saved_after_two_epochs(make_trainer: Any, tmp_path: Any) -> Any:
    trainer = make_trainer(LRSchedulerCallback(DECAY), max_epochs=2)
    trainer.fit(Regression(), data(batches=32))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    return tmp_path / "saved.ckpt"


@pytest.mark.parametrize("wired", [False, True])
@pytest.mark.parametrize("length", ["auto", "epochs"])
@pytest.mark.parametrize(("batches", "options", "total"), [
    (32, {}, 128), (8, {}, 80), (64, {}, 192), (32, {"accumulate_grad_batches": 4}, 80), (32, {"max_epochs": 3}, 96),
])  # fmt: skip
def test_a_resumed_schedule_ends_where_the_run_ends(make_trainer, tmp_path, length, batches, options, total, wired):
    path, options = saved_after_two_epochs(make_trainer, tmp_path), {"max_epochs": 4, **options}
    length = f"{options['max_epochs']}ep" if length == "epochs" else length
    config = {**DECAY, "params": {**WARMUP, "total_num_steps": length}}
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
    lengths = [schedule.hyperparameters["total_num_steps"] for schedule in (first, second)]
    assert (lengths, second.last_epoch) == ([64, 32], 32)
    # The curves go on where the trainer's steps are, beside those of the loss.
    lrs = [first.lr_at(step)[0] for step in range(64)] + [second.lr_at(step)[0] for step in range(32)]
    assert read_csv(logger)["lr-SGD"] == dict(enumerate(lrs))
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, 96 + 15
    trainer.fit(Regression(), data())
    assert callback.schedulers[0].hyperparameters["total_num_steps"] == callback.schedulers[0].last_epoch == 15


def test_asking_for_the_length_does_not_lose_the_position_of_a_loader(tmp_path):
    class Noting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches.append(float(batch[0].sum()))
            return self.loss(batch)

    def train(steps: int, ckpt_path: Any = None) -> Noting:
        module, trainer = Noting(), quiet_trainer(tmp_path, LRSchedulerCallback(DECAY), max_steps=steps)
        trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
        return module

    train(7).trainer.save_checkpoint(tmp_path / "saved.ckpt")
    assert train(12, tmp_path / "saved.ckpt").batches == train(12).batches[7:]


def test_a_strategy_that_loads_after_setup_resolves_the_same_lengths(make_trainer, tmp_path):
    path = saved_after_two_epochs(make_trainer, tmp_path)
    module, callback, logger = Regression(), LRSchedulerCallback(DECAY), CSVLogger(tmp_path)
    trainer = make_trainer(callback, max_epochs=4, strategy=RestoresLater(), logger=logger)
    trainer.fit(module, data(batches=8), ckpt_path=path)
    [schedule] = callback.schedulers
    assert [config.scheduler for config in trainer.lr_scheduler_configs] == [schedule]
    assert schedule.hyperparameters["total_num_steps"] == schedule.last_epoch == 80
    assert [lr for lr, _ in module.seen] == [schedule.lr_at(step)[0] for step in range(64, 80)]
    assert logger.experiment.hparams["lr_scheduler"]["total_num_steps"] == 80
