"""The range test records the mean of the ranks' losses; tests/strategies has it with two real processes."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_lrsched.range_test.loss_reader import LossReader


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
