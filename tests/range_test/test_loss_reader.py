"""LossReader: losses come out in order, a fixed number of steps late where the device is not the host."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_lrsched.range_test import loss_watch
from lightning_lrsched.range_test.loss_watch import LAG, LossReader


def on_an_accelerator(monkeypatch) -> LossReader:
    monkeypatch.setattr(loss_watch, "_is_far", lambda loss: True)
    return LossReader()


def test_on_the_cpu_a_loss_is_there_at_once():
    reader = LossReader()
    for step in range(5):
        reader.send(step, torch.tensor(float(step)))
        assert reader.arrived() == [(step, float(step))]


def test_on_an_accelerator_losses_come_exactly_lag_steps_late_and_all_in_the_end(monkeypatch):
    reader = on_an_accelerator(monkeypatch)
    arrived = []
    for step in range(20):
        reader.send(step, torch.tensor(math.nan if step == 5 else 1.0))
        new = reader.arrived()
        assert [loss.step for loss in new] == ([step - LAG] if step >= LAG else [])
        arrived += new
    assert [loss.step for loss in arrived if math.isnan(loss.value)] == [5]
    assert [loss.step for loss in [*arrived, *reader.arrived(wait=True)]] == list(range(20))


def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches():
    reader = LossReader()
    for loss in (1.0, 2.0, 6.0):
        reader.add(torch.tensor(loss))
    reader.end_step(0)
    reader.add(torch.tensor(5.0))
    reader.end_step(1)
    reader.end_step(2)  # without a loss
    assert reader.arrived() == [(0, 3.0), (1, 5.0)]


def test_a_later_change_of_the_loss_in_place_changes_nothing(monkeypatch):
    reader = on_an_accelerator(monkeypatch)
    loss = torch.tensor(1.0)
    reader.send(0, loss)
    loss.fill_(7.0)
    assert reader.arrived(wait=True) == [(0, 1.0)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_any_scalar_loss_is_read(dtype, shape):
    reader = LossReader()
    reader.send(0, torch.full(shape, 1.5, dtype=dtype))
    assert reader.arrived() == [(0, 1.5)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_gpu_before_a_loss_is_due():
    reader = LossReader()
    losses = torch.ones(LAG, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(LAG):
            reader.add(losses[step])
            reader.end_step(step)
            assert reader.arrived() == []
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [loss.value for loss in reader.arrived(wait=True)] == [1.0] * LAG


# The mean over the ranks (tests/integration/test_strategies.py has it with two real processes) ---------------------


@pytest.fixture
def other_rank(monkeypatch):
    """A process group with a second rank, whose losses the test sets."""
    losses: list[float] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(losses.pop(0)))
    return losses


def test_the_recorded_loss_is_the_mean_over_the_ranks(other_rank):
    other_rank += [3.0, 5.0]
    reader = LossReader()
    own = torch.tensor(1.0)
    reader.send(0, own)
    reader.send(1, torch.tensor(2.0))
    assert [loss.value for loss in reader.arrived()] == [2.0, 3.5]
    assert own.item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_another_rank_is_not_finite_here(other_rank, bad):
    other_rank += [bad]
    reader = LossReader()
    reader.send(0, torch.tensor(1.0))
    assert not math.isfinite(reader.arrived()[0].value)
