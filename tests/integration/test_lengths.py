"""Runs that are not as long as was assumed: known before, measured by the range test, corrected later, or said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, configure_optimizers
from tests.kit.modules import Regression, data
from tests.kit.runs import Save

DECAY = {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 2, "total_num_steps": "auto"}}
SHORT_TEST = {"num_steps": 40, "max_lr": 1.0}


def decay(total: Any) -> dict[str, Any]:
    return {**DECAY, "params": {**DECAY["params"], "total_num_steps": total}}


@pytest.fixture
def fit(make_trainer: Any, caplog: Any) -> Any:
    """Train; return the module, whose ``schedule`` trained it, and whose ``log`` has the lines about lengths."""

    def run(callback: Any, *others: Any, module: Any = None, loader: Any = None, ckpt_path: Any = None, **options: Any):
        module = module or Regression()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            make_trainer(callback, *others, **options).fit(module, loader, ckpt_path=ckpt_path)
        module.schedule = callback.schedulers[0]
        words = ("the run", "per batch", "batches now", "ends at step", "in this fit")
        module.log = [line for line in caplog.messages if any(word in line for word in words)]
        return module

    return run


# Fewer steps than batches ---------------------------------------------------------------------------------------------


class EveryFourth(Regression):
    """Accumulates four batches by hand."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer, loss = self.optimizers(), self.loss(batch)
        self.manual_backward(loss / 4)
        self.micro = getattr(self, "micro", 0) + 1
        if self.micro % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss


def test_one_line_is_made_for_the_steps_that_its_range_test_has_counted(fit):
    module = fit(LRSchedulerCallback(range_test=LRRangeTestCallback(**SHORT_TEST)), module=EveryFourth(),
                 loader=data(40), max_epochs=4)  # fmt: skip
    _, length = module.schedule.schedule.length
    params = module.schedule.hyperparameters
    assert length + params["decay_step_size"] == module.schedule.last_epoch == 40
    assert module.seen[-1][0] < 0.1 * max(lr for lr, _ in module.seen[-40:])
    [line] = module.log
    assert line.endswith("optimizer 0 made 0.25 steps per batch in its range test: the run is 40 steps long, not 160")


def test_a_resumed_run_has_shown_how_often_its_optimizer_steps(fit, tmp_path):
    path = tmp_path / "saved.ckpt"
    first = fit(LRSchedulerCallback(DECAY), Save(path), module=EveryFourth(), loader=data(40), max_epochs=4)
    assert first.schedule.hyperparameters["total_num_steps"] == 160
    assert "where one per batch would be 160" in first.log[-1]
    with pytest.warns(UserWarning, match="total_num_steps: 160 -> 40"):
        resumed = fit(LRSchedulerCallback(DECAY), module=EveryFourth(), loader=data(40), max_epochs=4, ckpt_path=path)
    assert resumed.schedule.hyperparameters["total_num_steps"] == resumed.schedule.last_epoch == 40
    assert resumed.log == []


# Data that grow -------------------------------------------------------------------------------------------------------


class Growing(Regression):
    """Two batches in the first epoch, four in the second, ..."""

    def train_dataloader(self) -> Any:
        return data(2 * (self.trainer.current_epoch + 1))


@pytest.mark.parametrize("unit", ["step", "sample"])
def test_lengths_follow_data_that_grow_and_the_log_says_so(fit, unit):
    options = {"module": Growing(), "max_epochs": 4, "reload_dataloaders_every_n_epochs": 1}
    module = fit(LRSchedulerCallback({**DECAY, "unit": unit}), **options)
    of_step = 8 if unit == "sample" else 1
    assert module.schedule.hyperparameters["total_num_steps"] == module.schedule.last_epoch == 20 * of_step
    assert all(lr > 0 for lr, _ in module.seen[2:])
    totals = [8, 2 + 12, 6 + 12, 20]
    assert [line.partition(": ")[2] for line in module.log] == [
        f"the train dataloader has {2 * epoch + 2} batches now, not {2 * epoch}: WarmupDecayLR is now made for"
        f" {totals[epoch] * of_step}, not {totals[epoch - 1] * of_step}"
        for epoch in (1, 2, 3)
    ]


# Schedules and runs that end early ------------------------------------------------------------------------------------


def one_cycle(**lengths: Any) -> dict[str, Any]:
    return {"type": "OneCycle", "params": {"cycle_min_lr": 0.01, "cycle_max_lr": 0.1, "decay_lr_rate": 99.0, **lengths}}


def test_a_1cycle_that_has_decayed_long_before_the_run_ends_is_reported(fit):
    config = one_cycle(cycle_first_step_size=4, cycle_second_step_size=8, decay_step_size=2)
    [line] = fit(LRSchedulerCallback(config), loader=data()).log
    assert "ends at step 14 (cycle_first_step_size + cycle_second_step_size), the run only at step 30" in line
    fractions = one_cycle(cycle_first_step_size=0.3, cycle_second_step_size=0.6, decay_step_size=0.1)
    assert fit(LRSchedulerCallback(fractions), loader=data()).log == []


class Stop(Callback):
    """Ends the fit after some steps, in one way or another."""

    def __init__(self, at: int, error: type[BaseException] | None = None) -> None:
        self.at, self.error = at, error

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.at:
            trainer.should_stop = True
            if self.error is not None:
                raise self.error


class Configured(Regression):
    """Returns its schedule itself."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def configure_optimizers(self) -> Any:
        return configure_optimizers(super().configure_optimizers(), self.config, trainer=self.trainer)


WAYS = {
    "callback": lambda config: (Regression(), [LRSchedulerCallback(config)]),
    "configure_optimizers": lambda config: (Configured(config), []),
    "taken over": lambda config: (Configured(decay(1000)), [LRSchedulerCallback(config, take_over=True)]),
}


@pytest.mark.parametrize("config", [DECAY, decay(30), one_cycle(cycle_first_step_size=0.5, cycle_second_step_size=0.5)])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_ends_before_its_schedule_says_so_with_both_numbers(way, config, error, make_trainer, caplog):
    module, callbacks = WAYS[way](config)
    trainer = make_trainer(*callbacks, Stop(12, error))
    with caplog.at_level(logging.INFO):
        try:
            trainer.fit(module, data())
        except (KeyboardInterrupt, SystemExit):
            assert error is not None
    [line] = [message for message in caplog.messages if "the run has ended" in message]
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert "the run has ended at step 12, before the schedule, which ends at step 30 (" in line
    then, goal = (schedule.lr_at(step)[0] for step in (11, 30))
    assert f"The last lr was {then:.3g}; at the end of the schedule it is {goal:.3g}" in line


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_fails_or_ends_with_its_schedule_says_nothing(way, make_trainer, caplog):
    def fit(config: Any, *others: Any, **options: Any) -> None:
        module, callbacks = WAYS[way](config)
        trainer = make_trainer(*callbacks, *others, **options)
        try:
            trainer.fit(module, data())
        finally:
            assert trainer.callbacks[: len(callbacks)] == callbacks
            assert not any(type(callback).__name__.endswith("Report") for callback in trainer.callbacks)

    with caplog.at_level(logging.INFO):
        with pytest.raises(ZeroDivisionError):
            fit(DECAY, Stop(12, ZeroDivisionError))
        fit(decay(12), Stop(12), max_epochs=-1)
        fit(DECAY, max_steps=12)
        fit(decay(30), fast_dev_run=True)
    assert not any("the run has ended" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("callbacks", "options", "who"),
    [
        ([EarlyStopping("loss", check_on_train_epoch_end=True)], {}, "EarlyStopping"),
        ([], {"max_time": "00:01:00:00"}, "max_time"),
    ],
)
def test_what_may_end_the_run_before_its_schedule_is_said_at_the_start(fit, callbacks, options, who):
    class Logging(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    module = fit(LRSchedulerCallback(decay(30)), *callbacks, module=Logging(), loader=data(), max_epochs=3, **options)
    assert module.log[0].startswith(
        f"WarmupDecayLR: the schedule ends at step 30. If {who} ends the run earlier, the lr is still above its last"
    )


class Dry(IterableDataset):
    """Has fewer batches than the Trainer may take."""

    def __iter__(self) -> Any:
        return iter(list(data(20).dataset)[: 12 * 8])


def test_a_stream_that_dries_up_before_the_schedule_ends_says_so(make_trainer, caplog):
    trainer = make_trainer(LRSchedulerCallback(DECAY), max_steps=40, max_epochs=1)
    with caplog.at_level(logging.INFO):
        trainer.fit(Regression(), DataLoader(Dry(), 8))
    [line] = [message for message in caplog.messages if "the run has ended" in message]
    assert "the run has ended at step 12, before the schedule, which ends at step 40" in line


def test_1cycle_ends_with_its_decay(make_trainer, caplog):
    lengths = {"cycle_first_step_size": 0.3, "cycle_second_step_size": 0.6, "decay_step_size": 0.1}
    with caplog.at_level(logging.INFO):
        callbacks = LRSchedulerCallback(one_cycle(**lengths, decay_lr_rate=99.0)), Stop(12)
        make_trainer(*callbacks, max_time="00:01:00:00").fit(Regression(), data())
    first, last = [message for message in caplog.messages if "the schedule ends" in message or "run has" in message]
    assert "the schedule ends at step 30." in first
    assert "which ends at step 30 (" in last


def test_of_a_schedule_that_holds_nobody_is_told_that_it_falls(make_trainer, caplog):
    hold = {"type": "WarmupLR", "params": {"warmup_num_steps": 5, "warmup_max_lr": "auto"}}
    with caplog.at_level(logging.INFO):
        make_trainer(LRSchedulerCallback(hold), Stop(12), max_time="00:01:00:00").fit(Regression(), data())
    assert not any("ends" in message and "lr is" in message for message in caplog.messages)


# Lengths that nobody knows --------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from data(10)


ONE_LINE = r"LRSchedulerCallback: 1Cycle ends with the run, whose length is not known: "


@pytest.mark.parametrize(
    ("scheduler", "options", "loader", "message"),
    [
        (None, {"max_epochs": -1}, data, rf"{ONE_LINE}the Trainer has max_epochs=-1 and no max_steps"),
        (None, {"max_epochs": -1, "max_time": "00:00:01:00"}, data, f"{ONE_LINE}the Trainer has max_time"),
        (None, {}, lambda: DataLoader(Stream(), batch_size=None), f"{ONE_LINE}the train dataloader has no length"),
        ({"type": "WarmupDecayLR", "params": {"warmup_max_lr": "lr_range_test", "total_num_steps": "auto"}},
         {"max_epochs": -1}, data, r"scheduler\.params\.total_num_steps='auto' needs to know how long the run is"),
    ],
)  # fmt: skip
def test_a_length_that_nobody_knows_is_an_error_before_the_range_test(
    make_trainer, scheduler, options, loader, message
):
    module = Regression()
    with pytest.raises(ValueError, match=message):
        make_trainer(LRSchedulerCallback(scheduler), **options).fit(module, loader())
    assert module.seen == []


def test_accumulation_that_changes_at_certain_steps_has_no_known_length(make_trainer):
    accumulation = GradientAccumulationScheduler({0: 2})
    accumulation.mode = "step"  # as newer versions of Lightning may have it
    with pytest.raises(ValueError, match=r"GradientAccumulationScheduler\(mode='step'\) changes the number of batches"):
        make_trainer(LRSchedulerCallback(DECAY), accumulation).fit(Regression(), data())


# Optimizers and checkpoints that cannot be meant ----------------------------------------------------------------------


def test_an_optimizer_without_a_learning_rate_is_told(make_trainer):
    def without_lr(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, 0.1)
        optimizer.param_groups[0]["lr"] = None
        return optimizer

    for callback in (LRSchedulerCallback(DECAY), LRSchedulerCallback(range_test=LRRangeTestCallback(**SHORT_TEST))):
        with pytest.raises(
            ValueError, match=r"SGD has no learning rate to schedule: its param_groups\[0\] has lr=None"
        ):
            make_trainer(callback).fit(Regression(without_lr), data())


@pytest.mark.parametrize(
    "entry",
    [5, None, {"places": 5}, {"places": [3]}, {"places": [["a", 0]]}, {"range_tests": 3}, {"range_tests": {0: 5}}],
)
def test_an_entry_of_another_shape_in_a_checkpoint_is_told(make_trainer, tmp_path, entry):
    trainer = make_trainer(LRSchedulerCallback(DECAY))
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    torch.save({**saved, "lightning_lrsched": entry}, tmp_path / "saved.ckpt")
    with pytest.raises(ValueError, match="the checkpoint's entry 'lightning_lrsched' is not as it was saved"):
        make_trainer(LRSchedulerCallback(DECAY), max_epochs=4).fit(
            Regression(), data(), ckpt_path=tmp_path / "saved.ckpt"
        )


@pytest.mark.parametrize(
    ("state", "outcome"), [({"hyperparameters": 5}, "last_epoch"), (None, None), ([1], "must be a")]
)
@pytest.mark.filterwarnings("ignore:LRSchedulerCallback. the checkpoint was saved without")
def test_a_state_of_another_shape_in_a_checkpoint_is_told_or_does_not_matter(make_trainer, tmp_path, state, outcome):
    trainer = make_trainer(LRSchedulerCallback(DECAY))
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    torch.save({**saved, "lr_schedulers": [state]}, tmp_path / "saved.ckpt")
    callback = LRSchedulerCallback(DECAY)
    trainer = make_trainer(callback, max_epochs=4)
    if outcome is None:
        trainer.fit(Regression(), data(), ckpt_path=tmp_path / "saved.ckpt")
        assert callback.schedulers[0].last_epoch == 40
    else:
        with pytest.raises((ValueError, TypeError), match=outcome):
            trainer.fit(Regression(), data(), ckpt_path=tmp_path / "saved.ckpt")


# A module that steps its optimizer only sometimes, under automatic optimization ---------------------------------------


class Seldom(Regression):
    """Steps once in several batches, as published modules do in ``optimizer_step``."""

    def __init__(self) -> None:
        super().__init__(lambda parameters: torch.optim.Adam(parameters, 0.5))
        self.called = 0

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        self.called += 1
        if self.called % 4 == 0:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
        else:
            closure()


@pytest.mark.parametrize(
    "options", [{"max_epochs": 20}, {"max_steps": 200, "max_epochs": -1}, {"limit_train_batches": 9}]
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("range_test", [None, LRRangeTestCallback(**SHORT_TEST)], ids=["probe", "range test"])
def test_the_length_follows_from_how_often_the_module_has_stepped(fit, range_test, accumulate, options):
    module = Seldom()
    options = {"max_epochs": 24, "accumulate_grad_batches": accumulate, **options}
    fit(LRSchedulerCallback(range_test=range_test), module=module, loader=data(10), **options)
    made = len(module.seen[-module.schedule.last_epoch :])
    assert module.trainer.global_step / made == pytest.approx(4, rel=0.1)
    built = module.schedule.schedule
    length = built.cycle_first_step_size + built.cycle_second_step_size + built.decay_step_size
    assert length == pytest.approx(made, abs=0.06 * made)
    [line] = module.log
    where = "probe" if range_test is None else "range test"
    assert f"steps per step that was due in its {where}: the run is" in line


def test_a_resume_keeps_that_length(fit, tmp_path):
    whole = fit(
        LRSchedulerCallback(), Save(tmp_path / "half.ckpt", 100), module=Seldom(), max_epochs=20, loader=data(10)
    )
    resumed = fit(
        LRSchedulerCallback(), module=Seldom(), max_epochs=20, loader=data(10), ckpt_path=tmp_path / "half.ckpt"
    )
    assert resumed.schedule.schedule == whole.schedule.schedule
    assert resumed.schedule.last_epoch == pytest.approx(50, abs=1)
    assert resumed.log == []
