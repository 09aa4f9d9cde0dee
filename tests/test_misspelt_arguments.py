"""A keyword that a class does not have: the error says which was probably meant."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch

import lightning_lrsched as package
from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, OneCycle, RangeTest, WarmupLR


def optimizer() -> Any:
    return torch.optim.SGD([torch.zeros(1)], 0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("call", "name", "meant"),
    [
        (lambda: LRRangeTestCallback(min_lr=1e-3, max_lr=1.0), "min_lr", "lr_range_test_min_lr"),
        (lambda: LRRangeTestCallback(step_size=10), "step_size", "lr_range_test_step_size"),
        (lambda: LRRangeTestCallback(num_step=10), "num_step", "num_steps"),
        (
            lambda: RangeTest(torch.nn.Linear(1, 1), optimizer(), min_lr=1e-3, max_lr=1.0),
            "min_lr",
            "lr_range_test_min_lr",
        ),
        (lambda: LRSchedulerCallback(takeover=True), "takeover", "take_over"),
        (lambda: LRSchedulerCallback(schedule={}), "schedule", "scheduler"),
        (lambda: LRSchedulerCallback(rangetest=None), "rangetest", "range_test"),
        (lambda: OneCycle(optimizer(), min_lr=0.1, max_lr=1.0), "min_lr", "cycle_min_lr"),
        (lambda: WarmupLR(optimizer(), max_lr=1.0), "max_lr", "warmup_max_lr"),
        (lambda: WarmupLR(optimizer(), num_steps=3), "num_steps", "warmup_num_steps"),
    ],
)
def test_the_error_names_what_was_probably_meant(call, name, meant):
    with pytest.raises(TypeError, match=rf"has no argument '{name}' \(did you mean '{meant}'\?\); it takes .*{meant}"):
        call()


def test_signatures_pickles_and_subclasses_are_as_without_it():
    assert "take_over" in inspect.signature(LRSchedulerCallback).parameters
    assert next(iter(inspect.signature(package.OneCycle).parameters)) == "optimizer"
    restored = pickle.loads(pickle.dumps(LRRangeTestCallback(max_lr=1.0)))
    assert restored.optimizer_index == 0

    class Own(WarmupLR):
        def __init__(self, optimizer: Any, **mine: Any) -> None:
            super().__init__(optimizer, warmup_max_lr=mine["peak"])

    assert Own(optimizer(), peak=0.3).lr_at(2000) == [0.3]
