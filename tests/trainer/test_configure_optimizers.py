"""configure_optimizers: what it returns, and the values of each step in a real Trainer."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.optim import SGD, AdamW

from lightning_lrsched import OneCycle, SchedulerConfig, configure_optimizers
from tests.kit.modules import Regression, data
from tests.kit.schedules import sgd

ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8},
}


def test_what_it_returns_is_lightnings(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"optimizer": {"type": "SGD", "params": {"momentum": 0.9}}, "scheduler": ONE_CYCLE}))
    configured = configure_optimizers(torch.nn.Linear(2, 2), path)
    assert isinstance(configured["lr_scheduler"].pop("scheduler"), OneCycle)
    assert configured["lr_scheduler"] == {"interval": "step", "frequency": 1}
    optimizer = sgd()
    assert configure_optimizers(optimizer, SchedulerConfig.of(path))["optimizer"] is optimizer


@pytest.mark.parametrize("accumulate", [1, 3])
def test_in_a_trainer_each_step_has_the_values_of_the_schedule(make_trainer, accumulate):
    class Wired(Regression):
        def configure_optimizers(self) -> Any:
            section = {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.95]}}
            return configure_optimizers(self, {"optimizer": section, "scheduler": ONE_CYCLE})

    module = Wired()
    make_trainer(accumulate_grad_batches=accumulate).fit(module, data())
    expected = SchedulerConfig.of(ONE_CYCLE).build(AdamW([torch.zeros(1)], lr=0.01))
    steps = range(len(module.seen))
    assert module.seen == [(expected.lr_at(step)[0], expected.momentum_at(step)[0]) for step in steps]
    assert len(module.seen) == (30 if accumulate == 1 else 12)


def test_without_a_scheduler_the_optimizer_stays_as_it_is(make_trainer):
    class Wired(Regression):
        def configure_optimizers(self) -> Any:
            return configure_optimizers(self, {"optimizer": {"type": "SGD", "params": {"lr": 0.01, "momentum": 0.5}}})

    module = Wired()
    make_trainer(max_epochs=1).fit(module, data())
    assert module.seen == [(0.01, 0.5)] * 10


class KeptOptimizer(Regression):
    """Configures the same optimizer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = SGD(self.parameters(), lr=0.01, momentum=0.9)

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self.kept, ONE_CYCLE)


def test_a_later_call_for_the_same_optimizer_replaces_the_schedule(make_trainer):
    module = KeptOptimizer()
    for _ in range(2):
        make_trainer(max_epochs=1).fit(module, data())
    expected = SchedulerConfig.of(ONE_CYCLE).build(sgd(lr=0.01))
    assert module.seen == [(expected.lr_at(step)[0], expected.momentum_at(step)[0]) for step in range(10)] * 2


def configure(optimizer: Any) -> Any:
    return configure_optimizers(optimizer, ONE_CYCLE)["lr_scheduler"]["scheduler"]


def follow(optimizer: Any) -> Any:
    return SchedulerConfig.of(ONE_CYCLE).build(optimizer, follow=True)


def test_a_wrong_later_call_leaves_the_schedule_in_charge():
    optimizer = sgd()
    earlier = configure_optimizers(optimizer, ONE_CYCLE)["lr_scheduler"]["scheduler"]
    earlier.step(1)
    with pytest.raises(ValueError, match="cycle_max_lr lists 3 values"):
        configure_optimizers(
            optimizer, {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "cycle_max_lr": [1.0] * 3}}
        )
    assert earlier.is_following


@pytest.mark.parametrize("first", [configure, follow])
def test_a_schedule_that_has_not_moved_or_that_somebody_else_follows_is_not_replaced(first):
    optimizer = sgd()
    earlier = first(optimizer)
    with pytest.raises(ValueError, match="OneCycle follows it already"):
        configure_optimizers(optimizer, ONE_CYCLE)
    assert earlier.is_following


def test_a_configured_optimizer_is_not_kept_alive():
    optimizer = sgd()
    configure_optimizers(optimizer, ONE_CYCLE)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


def test_no_trainer_no_run():
    module = LightningModule()
    module.net = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"total_num_steps='auto' needs to know how long the run is, .*pass trainer="):
        configure_optimizers(
            torch.optim.SGD(module.parameters(), lr=0.1),
            {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto"}}},
        )
