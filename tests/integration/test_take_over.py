"""A module that returns a scheduler of its own: refused with the way out, or replaced by the callback's schedule."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, configure_optimizers
from tests.kit.modules import read_csv
from tests.kit.runs import (
    CONFIGS,
    ONE_CYCLE,
    WARMUP,
    ManualNet,
    Net,
    StatefulLoader,
    checkpoint,
    fit,
    sgd,
    two_optimizers,
)
from tests.kit.runs import quiet_trainer as trainer_in

COSINE = CONFIGS["WarmupCosineLR"]


def plateau(optimizer: Any) -> Any:
    return {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "loss_that_nobody_logs", "strict": True}


def chained(optimizer: Any) -> Any:
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1), StepLR(optimizer, 2)], [3])


FORMS: dict[str, Any] = {
    "dict": lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 2)},
    "lists": lambda o: ([o], [StepLR(o, 2)]),
    "by steps": lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": StepLR(o, 2), "interval": "step"}},
    "warmup from 0": lambda o: ([o], [LambdaLR(o, lambda step: step / 10)]),
    "1Cycle of torch": lambda o: ([o], [OneCycleLR(o, 5.0, total_steps=9)]),
    "plateau": lambda o: {"optimizer": o, "lr_scheduler": plateau(o)},
    "several": lambda o: ([o], [chained(o), plateau(o)]),
    "ours": lambda o: configure_optimizers(o, WARMUP),
}


def one_group(module: Any) -> Any:
    return torch.optim.SGD(module.parameters(), 0.03, momentum=0.9)


@pytest.mark.parametrize("config", [ONE_CYCLE, COSINE], ids=["OneCycle", "WarmupCosineLR"])
@pytest.mark.parametrize("form", FORMS)
def test_a_training_is_as_if_the_module_had_returned_no_scheduler(tmp_path, caplog, form, config):
    with caplog.at_level(logging.INFO):
        taken = fit(tmp_path, config, lambda m: FORMS[form](one_group(m)), callback_options={"take_over": True})
    plain = fit(tmp_path, config, one_group)
    assert taken.used == plain.used
    assert all(map(torch.equal, taken.weights(), plain.weights()))
    [line] = [message for message in caplog.messages if "takes the place" in message]
    assert line.startswith("LRSchedulerCallback: takes the place of the module's ")
    assert ("(monitor 'loss_that_nobody_logs')" in line) == (form in ("plateau", "several"))
    assert "for optimizer 0, which is not used" in line


class Stepping(ManualNet):
    """Steps the schedulers that it has returned, as manual optimization asks it to."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        first, second = self.lr_schedulers()
        first.step()
        second.step(torch.tensor(0.5))

    def on_train_epoch_end(self) -> None:
        self.kept.step()


def with_schedulers(module: Any) -> Any:
    optimizers = two_optimizers(module)
    module.kept = StepLR(optimizers[0], 1)
    return list(optimizers), [module.kept, ReduceLROnPlateau(optimizers[1])]


def test_a_module_that_steps_its_schedulers_itself_moves_nothing(tmp_path):
    options = {"callback_options": {"take_over": True}, "max_steps": 22}
    taken = fit(tmp_path, [ONE_CYCLE, WARMUP], with_schedulers, module_class=Stepping, **options)
    plain = fit(tmp_path, [ONE_CYCLE, WARMUP], module_class=ManualNet, max_steps=22)
    assert taken.used == plain.used


def test_a_scheduler_of_another_optimizer_stays(tmp_path):
    def configure(module: Any) -> Any:
        optimizers = two_optimizers(module)
        return list(optimizers), [StepLR(optimizers[0], 1), StepLR(optimizers[1], 1)]

    options = {"take_over": True, "optimizer_index": 0}
    module = fit(tmp_path, ONE_CYCLE, configure, module_class=ManualNet, callback_options=options)
    names = [type(config.scheduler).__name__ for config in module.trainer.lr_scheduler_configs]
    assert names[1] == "StepLR"
    assert names[0] != "StepLR"


@pytest.mark.parametrize("taken_before", [True, False])
def test_a_resume_goes_on_where_it_was(tmp_path, taken_before):
    options, whole = {"callback_options": {"take_over": True}}, fit(tmp_path, ONE_CYCLE, one_group)

    def configure(module: Any) -> Any:
        return FORMS["several" if taken_before else "lists"](one_group(module))

    if taken_before:
        path = checkpoint(tmp_path, ONE_CYCLE, configure, steps=7, **options)
        resumed = fit(tmp_path, ONE_CYCLE, configure, ckpt_path=path, **options)
        assert resumed.used == whole.used[7:]
    else:
        path = checkpoint(tmp_path, None, configure, steps=7)
        with pytest.warns(UserWarning, match="the schedule continues from step 7"):
            resumed = fit(tmp_path, ONE_CYCLE, configure, ckpt_path=path, **options)
        lrs = [[lr for lr, _ in values] for _, values in resumed.used]
        assert lrs == [[lr for lr, _ in values] for _, values in whole.used[7:]]


def test_one_line_takes_over_and_its_range_test_begins_at_the_optimizers_own_lr(tmp_path):
    results = []
    for make, options in ((one_group, {}), (lambda m: FORMS["warmup from 0"](one_group(m)), {"take_over": True})):
        callback = LRSchedulerCallback(range_test=LRRangeTestCallback(num_steps=40, max_lr=1.0), **options)
        module = Net(make)
        trainer_in(tmp_path, callback, max_steps=16).fit(module, StatefulLoader())
        results.append((callback.range_test_result.lrs, module.used))
    assert results[0] == results[1]


def test_a_monitor_logs_the_schedule_under_the_name_that_the_module_gave(tmp_path):
    def named(module: Any) -> Any:
        optimizer = one_group(module)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 2), "name": "mine"}}

    logger, callback = CSVLogger(tmp_path), LRSchedulerCallback(ONE_CYCLE, take_over=True)
    module = Net(named)
    trainer_in(tmp_path, callback, LearningRateMonitor("step"), logger=logger, log_every_n_steps=1).fit(
        module, StatefulLoader()
    )
    assert read_csv(logger)["mine"] == {step: values[0][0] for step, (_, values) in enumerate(module.used)}


def test_the_result_of_a_range_test_is_a_schedule(tmp_path):
    test = LRRangeTestCallback(num_steps=60, max_lr=10.0)
    trainer_in(tmp_path, test).fit(Net(sgd), StatefulLoader())
    given, written = (fit(tmp_path, config, sgd) for config in (test.result, test.result.one_cycle()))
    assert given.used == written.used
