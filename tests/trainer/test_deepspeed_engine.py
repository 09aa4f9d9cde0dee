"""What is done with a DeepSpeed engine, as far as it can be tried without one; see also test_deepspeed_strategy.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_lrsched import LRSchedulerCallback, WarmupLR, configure_optimizers
from lightning_lrsched.trainer.deepspeed_engine import (
    EngineClock,
    EngineState,
    batches_for_steps,
    engine_of,
    follow_engine,
    uses_engine,
)

WARMUP = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}


class DeepSpeedStrategy:
    """As far as a configuration goes."""

    def __init__(self, model: Any = None, **config: Any) -> None:
        self.config, self.model = config, model


class DeepSpeedEngine:
    """What a snapshot reads of an engine without ZeRO."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.lr_scheduler = optimizer, None
        self.global_steps, self.skipped_steps, self.micro_steps, self.loss = 3, 1, 7, torch.zeros(1)


class Wrapper:
    """DeepSpeed's optimizer with 32-bit master weights around one of torch."""

    def __init__(self, network: nn.Module) -> None:
        self.masters = [parameter.detach().clone() for parameter in network.parameters()]
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.1)
        self.loss_scaler = SimpleNamespace(cur_scale=16.0, raise_error_at_min_scale=True)
        self.averaged_gradients = {0: torch.ones(1)}
        self.overflow = False

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        for master in self.masters:
            master.grad = torch.ones_like(master)
        self.optimizer.step()


def make_schedule() -> WarmupLR:
    return WarmupLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), **WARMUP["params"])


@pytest.mark.parametrize("batches", [1, 4, 10, 11])
@pytest.mark.parametrize("accumulate", [1, 3, 4])
def test_the_batches_until_lightnings_count_has_grown_are_those_that_it_counts(batches, accumulate):
    for done in range(batches):
        count, found = 0, {0: 0}
        for batch in range(done, 8 * batches):
            # As in TrainingEpochLoop: a group that an epoch leaves unfinished is not counted.
            count += (batch % batches + 1) % accumulate == 0
            found.setdefault(count, batch + 1 - done)
        if batches < accumulate:
            assert batches_for_steps(1, batches, accumulate, done) is None
        else:
            assert {steps: batches_for_steps(steps, batches, accumulate, done) for steps in found} == found


def test_other_strategies_have_no_engine():
    trainer = SimpleNamespace(strategy=SimpleNamespace(model=DeepSpeedEngine(None)))
    assert not uses_engine(trainer)
    assert engine_of(trainer) is None
    assert not uses_engine(None)


def test_before_there_is_an_engine_the_strategy_holds_the_module():
    assert engine_of(SimpleNamespace(strategy=DeepSpeedStrategy(nn.Linear(1, 1)))) is None
    engine = DeepSpeedEngine(None)
    assert engine_of(SimpleNamespace(strategy=DeepSpeedStrategy(engine))) is engine


def test_the_engines_call_advances_the_schedule_and_nothing_else_does():
    schedule, engine = make_schedule(), DeepSpeedEngine(None)
    follow_engine(schedule, engine)
    schedule.step()  # as Lightning does after each batch
    schedule.optimizer.step()  # as ZeRO does, for each shard
    assert schedule.last_epoch == 0
    engine.lr_scheduler.step()
    assert schedule.last_epoch == 1
    assert engine.lr_scheduler.state_dict() == schedule.state_dict()


def test_a_detached_schedule_stays_where_it_is():
    schedule, engine = make_schedule(), DeepSpeedEngine(None)
    follow_engine(schedule, engine)
    schedule.unfollow_optimizer()
    engine.lr_scheduler.step()
    assert schedule.last_epoch == 0


def test_a_clock_loads_the_position():
    schedule = make_schedule()
    EngineClock(schedule).load_state_dict({"last_epoch": 3})
    assert schedule.last_epoch == 3


def test_a_scheduler_in_the_strategys_own_config_is_refused(make_trainer):
    trainer = make_trainer()
    trainer._accelerator_connector.strategy = DeepSpeedStrategy(scheduler={"type": "OneCycle"})
    complaint = r"the config of DeepSpeedStrategy has a 'scheduler' section \(OneCycle\).* keep one"
    with pytest.raises(ValueError, match=f"^LRSchedulerCallback: {complaint}"):
        LRSchedulerCallback(WARMUP).setup(trainer, LightningModule(), "fit")
    with pytest.raises(ValueError, match=f"^configure_optimizers: {complaint}"):
        configure_optimizers(torch.optim.SGD([torch.zeros(1)], lr=0.1), WARMUP, trainer=trainer)


def test_a_snapshot_puts_an_engine_back_in_place():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    engine = DeepSpeedEngine(wrapper)
    wrapper.step()
    masters = [master.clone() for master in wrapper.masters]
    states = [
        {name: value.clone() for name, value in wrapper.optimizer.state[master].items()} for master in wrapper.masters
    ]
    held = [wrapper.optimizer.state[master]["exp_avg"] for master in wrapper.masters]

    snapshot = EngineState(engine, network)
    assert wrapper.loss_scaler.raise_error_at_min_scale is False
    wrapper.step()
    wrapper.param_groups[0].update(lr=5.0, betas=(0.1, 0.2), new=1)
    wrapper.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    wrapper.loss_scaler.cur_scale, wrapper.overflow = 1.0, True
    engine.global_steps, engine.skipped_steps, engine.micro_steps = 9, 5, 40
    snapshot.restore()

    assert [*map(torch.equal, wrapper.masters, masters)] == [True, True]
    for master, before, tensor in zip(wrapper.masters, states, held, strict=True):
        now = wrapper.optimizer.state[master]
        assert now.keys() == before.keys()
        assert all(torch.equal(now[name], before[name]) for name in before)
        assert now["exp_avg"] is tensor
    (group,) = wrapper.param_groups
    assert (group["lr"], group["betas"], "new" in group) == (0.1, (0.9, 0.999), False)
    assert vars(wrapper.loss_scaler) == {"cur_scale": 16.0, "raise_error_at_min_scale": True}
    assert (wrapper.overflow, wrapper.averaged_gradients) == (False, {0: None})
    assert (engine.global_steps, engine.skipped_steps, engine.micro_steps) == (3, 1, 7)


def test_a_fresh_optimizer_is_fresh_again():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    snapshot = EngineState(DeepSpeedEngine(wrapper), network)
    wrapper.step()
    snapshot.restore()
    assert not wrapper.optimizer.state


def test_states_on_disk_are_refused():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    wrapper.swap_optimizer = True
    with pytest.raises(ValueError, match="use DeepSpeedStrategy without the device 'nvme'"):
        EngineState(DeepSpeedEngine(wrapper), network)


def test_a_snapshot_that_is_kept_puts_an_engine_back_twice():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    engine = DeepSpeedEngine(wrapper)
    wrapper.step()
    masters = [master.clone() for master in wrapper.masters]
    moments = [wrapper.optimizer.state[master]["exp_avg"].clone() for master in wrapper.masters]

    snapshot = EngineState(engine, network)
    for keep in (True, False):
        wrapper.optimizer.state.clear()
        for _ in range(3):
            wrapper.step()
        wrapper.param_groups[0]["betas"] = (0.1, 0.2)
        engine.skipped_steps, wrapper.loss_scaler.cur_scale = 5, 1.0
        snapshot.restore(keep=keep)
        assert [*map(torch.equal, wrapper.masters, masters)] == [True, True]
        states = [wrapper.optimizer.state[master]["exp_avg"] for master in wrapper.masters]
        assert [*map(torch.equal, states, moments)] == [True, True]
        assert wrapper.param_groups[0]["betas"] == (0.9, 0.999)
        assert (engine.skipped_steps, wrapper.loss_scaler.cur_scale) == (1, 16.0)
        assert wrapper.loss_scaler.raise_error_at_min_scale is not keep  # in a trial an overflow is a result
