"""Loops with Lightning Fabric on one device: schedules, "auto" lengths, range tests and checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from lightning_lrsched import RangeTest, SchedulerConfig
from tests.kit.modules import data
from tests.kit.runs import CONFIGS
from tests.kit.schedules import values_of

AUTO = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.02, "cycle_first_step_size": 0.5}}


class Loop:
    """Model, optimizer and data as Fabric wraps them; ``used`` notes lr and momentum of every step."""

    def __init__(self, precision: str = "32-true", seed: int = 1) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.model, self.optimizer = self.fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=0.01))
        self.loader = self.fabric.setup_dataloaders(data())
        self.used: list[Any] = []

    def step(self, batch: Any) -> Tensor:
        loss = (self.model(batch[0]) - batch[1]).square().mean()
        self.fabric.backward(loss)
        self.used.append(values_of(self.optimizer))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def train(self, steps: int) -> None:
        for _, batch in zip(range(steps), self.loader, strict=False):
            self.step(batch)

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def expected(schedule: Any, steps: range) -> list[Any]:
    momenta = [schedule.momentum_at(step) for step in steps]
    return [[(schedule.lr_at(step)[0], m[0] if m else 0.9)] for step, m in zip(steps, momenta, strict=True)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_every_schedule_follows_a_wrapped_optimizer(config, precision):
    loop = Loop(precision)
    schedule = SchedulerConfig.from_dict(config).build(loop.optimizer, follow=True)
    loop.train(8)
    assert schedule.last_epoch == 8
    assert loop.used == expected(schedule, range(8))


def test_a_checkpoint_of_fabric_holds_the_schedule_and_a_resumed_loop_ends_as_if_it_had_never_stopped(tmp_path):
    whole = Loop()
    whole_schedule = SchedulerConfig.from_dict(AUTO).build(whole.optimizer, total_steps=9, follow=True)
    whole.train(9)

    first = Loop()
    schedule = SchedulerConfig.from_dict(AUTO).build(first.optimizer, total_steps=9, follow=True)
    first.train(4)
    state = {"model": first.model, "optimizer": first.optimizer, "schedule": schedule, "steps": 4}
    first.fabric.save(tmp_path / "saved.ckpt", state)

    second = Loop(seed=2)
    schedule = SchedulerConfig.from_dict(AUTO).build(second.optimizer, total_steps=9, follow=True)
    progress = {"model": second.model, "optimizer": second.optimizer, "schedule": schedule, "steps": 0}
    second.fabric.load(tmp_path / "saved.ckpt", progress)
    assert (progress["steps"], schedule.last_epoch) == (4, 4)
    batches = list(second.loader)[4:9]
    for batch in batches:
        second.step(batch)
    assert [*first.used, *second.used] == whole.used == expected(whole_schedule, range(9))
    assert all(map(torch.equal, whole.weights(), second.weights()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_range_test_leaves_a_fabric_loop_as_it_was_and_leads_on_to_its_training(precision):
    loop, twin = Loop(precision), Loop(precision)
    with RangeTest(loop.model, loop.optimizer, num_steps=60) as test:
        for batch in test.batches(loop.loader):
            test.record(loop.step(batch))
    assert len(test.result.steps) > len(loop.loader)
    assert [pairs[0][0] for pairs in loop.used] == test.result.lrs
    assert loop.loader._num_iter_calls == 0  # from which Fabric sets the epoch of a distributed sampler
    loop.used.clear()
    for each in (loop, twin):
        schedule = SchedulerConfig.from_dict(AUTO).build(each.optimizer, total_steps=10, follow=True)
        each.train(10)
        assert schedule.last_epoch == 10
    assert loop.used == twin.used
    assert all(map(torch.equal, loop.weights(), twin.weights()))
