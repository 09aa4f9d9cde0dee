"""What is done with a DeepSpeed engine, as far as it can be tried without one; see also test_deepspeed_strategy.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_lrsched import LRSchedulerCallback, WarmupLR, configure_optimizers
from lightning_lrsched.trainer.deepspeed import EngineClock, EngineState, clock_of, engine_of

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


def test_the_clock_is_the_optimizer_or_the_engine_once_there_is_one():
    engine = DeepSpeedEngine(None)
    clocks = [
        clock_of(trainer)
        for trainer in (
            None,
            SimpleNamespace(strategy=SimpleNamespace(model=engine)),
            SimpleNamespace(strategy=DeepSpeedStrategy(nn.Linear(1, 1))),
            SimpleNamespace(strategy=DeepSpeedStrategy(engine)),
        )
    ]
    assert [clock.carries for clock in clocks] == [False, False, True, True]
    assert [(clock.steps, clock.attempts) for clock in clocks] == [(None, None)] * 3 + [(2, 3)]
    assert engine_of(SimpleNamespace(strategy=DeepSpeedStrategy(engine))) is engine


def test_the_engines_call_advances_the_schedule_and_nothing_else_does_until_it_is_detached():
    schedule, engine = make_schedule(), DeepSpeedEngine(None)
    EngineClock(engine).follow(schedule)
    schedule.step()  # as Lightning does after each batch
    schedule.optimizer.step()  # as ZeRO does, for each shard
    assert schedule.last_epoch == 0
    engine.lr_scheduler.step()
    assert schedule.last_epoch == 1
    assert engine.lr_scheduler.state_dict() == schedule.state_dict()
    engine.lr_scheduler.load_state_dict({"last_epoch": 3})
    assert schedule.last_epoch == 3
    schedule.unfollow_optimizer()
    engine.lr_scheduler.step()
    assert schedule.last_epoch == 3


def test_a_scheduler_in_the_strategys_own_config_is_refused(make_trainer):
    trainer = make_trainer()
    trainer._accelerator_connector.strategy = DeepSpeedStrategy(scheduler={"type": "OneCycle"})
    complaint = r"the config of DeepSpeedStrategy has a 'scheduler' section \(OneCycle\).* keep one"
    with pytest.raises(ValueError, match=f"^LRSchedulerCallback: {complaint}"):
        LRSchedulerCallback(WARMUP).setup(trainer, LightningModule(), "fit")
    with pytest.raises(ValueError, match=f"^configure_optimizers: {complaint}"):
        configure_optimizers(torch.optim.SGD([torch.zeros(1)], lr=0.1), WARMUP, trainer=trainer)


def test_a_snapshot_puts_an_engine_back_in_place_and_once_more_where_it_is_kept():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    engine = DeepSpeedEngine(wrapper)
    wrapper.step()

    def state() -> tuple[list[Any], Any]:
        states = [wrapper.optimizer.state[master] for master in wrapper.masters]
        tensors = [*wrapper.masters, *(value for of in states for value in of.values())]
        (group,) = wrapper.param_groups
        rest = {key: value for key, value in group.items() if key != "params"}
        counters = (engine.global_steps, engine.skipped_steps, engine.micro_steps, wrapper.overflow)
        return [tensor.clone() for tensor in tensors], (rest, wrapper.loss_scaler.cur_scale, counters)

    before, held = state(), wrapper.optimizer.state[wrapper.masters[0]]["exp_avg"]
    snapshot = EngineState(engine, network)
    assert wrapper.loss_scaler.raise_error_at_min_scale is False  # in a trial an overflow is a result
    for keep in (True, False):
        wrapper.step()
        wrapper.param_groups[0].update(lr=5.0, betas=(0.1, 0.2), new=1)
        wrapper.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
        wrapper.loss_scaler.cur_scale, wrapper.overflow = 1.0, True
        engine.global_steps, engine.skipped_steps, engine.micro_steps = 9, 5, 40
        snapshot.restore(keep=keep)
        after = state()
        assert all(map(torch.equal, after[0], before[0]))
        assert after[1] == before[1]
        assert wrapper.optimizer.state[wrapper.masters[0]]["exp_avg"] is held
        assert wrapper.averaged_gradients == {0: None}
        assert wrapper.loss_scaler.raise_error_at_min_scale is not keep


def test_a_fresh_optimizer_is_fresh_again_and_states_that_are_gone_come_back():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    snapshot = EngineState(DeepSpeedEngine(wrapper), network)
    wrapper.step()
    snapshot.restore()
    assert not wrapper.optimizer.state
    wrapper.step()
    moment = wrapper.optimizer.state[wrapper.masters[0]]["exp_avg"].clone()
    snapshot = EngineState(DeepSpeedEngine(wrapper), network)
    wrapper.optimizer.state.clear()
    snapshot.restore()
    assert torch.equal(wrapper.optimizer.state[wrapper.masters[0]]["exp_avg"], moment)


def test_states_on_disk_are_refused():
    network = nn.Linear(2, 1)
    wrapper = Wrapper(network)
    wrapper.swap_optimizer = True
    with pytest.raises(ValueError, match="use DeepSpeedStrategy without the device 'nvme'"):
        EngineState(DeepSpeedEngine(wrapper), network)
