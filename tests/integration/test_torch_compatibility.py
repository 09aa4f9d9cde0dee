"""The schedules inside torch's own composition classes and beside torch's own schedulers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    SequentialLR,
)

from tests.kit.schedules import NAMES, adamw, lrs, small, train_step

every_schedule = pytest.mark.parametrize("name", NAMES)
OWN_LR = 0.1


def run(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
    """Train for ``steps`` steps and return the lr of each."""
    used = []
    for _ in range(steps):
        used.append(lrs(optimizer)[0])
        train_step(optimizer)
        scheduler.step()
    return used


def curve(name: str, steps: int) -> list[float]:
    schedule = small(name, adamw(OWN_LR))
    return [schedule.lr_at(step)[0] for step in range(steps)]


def as_lambda(name: str, optimizer: Optimizer) -> LambdaLR:
    """The schedule ``name`` as torch's own LambdaLR: what torch does with that is what it has to do with ours."""
    values = curve(name, 100)
    return LambdaLR(optimizer, lambda epoch: values[epoch] / OWN_LR)


@every_schedule
def test_a_plain_loop(name: str) -> None:
    optimizer = adamw(OWN_LR)
    assert run(optimizer, small(name, optimizer), 12) == curve(name, 12)


@every_schedule
def test_one_after_another_of_ours(name: str) -> None:
    optimizer = adamw(OWN_LR)
    both = SequentialLR(optimizer, [small(name, optimizer), small("OneCycle", optimizer)], milestones=[5])
    assert run(optimizer, both, 15) == curve(name, 5) + curve("OneCycle", 10)


@every_schedule
def test_torchs_first_then_ours(name: str) -> None:
    optimizer = adamw(OWN_LR)
    both = SequentialLR(optimizer, [ConstantLR(optimizer, 0.5, total_iters=100), small(name, optimizer)], [5])
    assert run(optimizer, both, 15) == [0.05] * 5 + curve(name, 10)


@every_schedule
def test_ours_first_then_torchs(name: str) -> None:
    optimizer = adamw(OWN_LR)
    exponential = ExponentialLR(optimizer, 0.5)
    both = SequentialLR(optimizer, [small(name, optimizer), exponential], [5])
    assert run(optimizer, both, 8) == pytest.approx([*curve(name, 5), 0.1, 0.05, 0.025])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # what torch's own say when they are nested
@every_schedule
def test_sequences_in_a_sequence_do_what_they_do_with_torchs_own(name: str) -> None:
    def nested(make: Callable[[str, Optimizer], LRScheduler]) -> list[float]:
        optimizer = adamw(OWN_LR)
        inner = SequentialLR(optimizer, [make(name, optimizer), make("OneCycle", optimizer)], [4])
        return run(optimizer, SequentialLR(optimizer, [inner, make(name, optimizer)], [9]), 15)

    assert nested(small) == pytest.approx(nested(as_lambda), rel=1e-12)


@every_schedule
def test_chained_ours_sets_the_lr_that_torchs_then_scales(name: str) -> None:
    optimizer = adamw(OWN_LR)
    chain = ChainedScheduler([small(name, optimizer), ExponentialLR(optimizer, 0.5)], optimizer)
    halved = [0.5 * lr for lr in curve(name, 10)]
    assert run(optimizer, chain, 10)[1:] == pytest.approx(halved[1:])


@every_schedule
def test_chained_with_another_of_ours_the_last_one_sets_the_lr(name: str) -> None:
    optimizer = adamw(OWN_LR)
    chain = ChainedScheduler([small("OneCycle", optimizer), small(name, optimizer)], optimizer)
    assert run(optimizer, chain, 10) == curve(name, 10)
    assert chain.get_last_lr() == lrs(optimizer)


@every_schedule
def test_beside_a_torch_scheduler_of_another_optimizer(name: str) -> None:
    optimizer, other = adamw(OWN_LR), adamw(OWN_LR)
    schedule, torchs = small(name, optimizer), LambdaLR(other, lambda epoch: 1 / (1 + epoch))
    for step in range(5):
        assert (lrs(optimizer), lrs(other)) == (schedule.lr_at(step), [pytest.approx(OWN_LR / (1 + step))])
        for one in (optimizer, other):
            train_step(one)
        schedule.step()
        torchs.step()


@every_schedule
def test_a_torch_scheduler_built_after_ours_starts_from_the_optimizers_own_lr(name: str) -> None:
    optimizer = adamw(OWN_LR)
    small(name, optimizer)
    assert LambdaLR(optimizer, lambda _: 1.0).get_last_lr() == [OWN_LR]


def sequence_of(*names: str) -> Callable[[Optimizer], LRScheduler]:
    """Return what builds a sequence of ours and of torch's ("torch"), with a change after every fourth step."""

    def make(name: str, optimizer: Optimizer) -> LRScheduler:
        return ExponentialLR(optimizer, 0.9) if name == "torch" else small(name, optimizer)

    def build(optimizer: Optimizer) -> LRScheduler:
        return SequentialLR(optimizer, [make(n, optimizer) for n in names], [4 * i for i in range(1, len(names))])

    return build


def nested(optimizer: Optimizer) -> LRScheduler:
    inner = SequentialLR(optimizer, [small("OneCycle", optimizer), small("WarmupLR", optimizer)], [4])
    return SequentialLR(optimizer, [inner, small("WarmupDecayLR", optimizer)], [9])


def chained(optimizer: Optimizer) -> LRScheduler:
    return ChainedScheduler([small("WarmupLR", optimizer), ExponentialLR(optimizer, 0.5)], optimizer)


COMPOSITIONS = {
    "ours, ours": sequence_of("OneCycle", "WarmupLR"),
    "torch, ours": sequence_of("torch", "WarmupDecayLR"),
    "ours, torch": sequence_of("WarmupLR", "torch"),
    "ours, torch, ours": sequence_of("OneCycle", "torch", "WarmupCosineLR"),
    "nested": nested,
    "chained": chained,
}


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 8, 9, 11])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_a_composition_resumes_at_the_same_lr_and_goes_on_the_same(composition: str, stop: int) -> None:
    def build() -> tuple[Any, LRScheduler]:
        optimizer = adamw(OWN_LR)
        return optimizer, COMPOSITIONS[composition](optimizer)

    optimizer, scheduler = build()
    run(optimizer, scheduler, stop)
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    resumed_optimizer, resumed = build()
    resumed_optimizer.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert lrs(resumed_optimizer) == lrs(optimizer)
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert run(resumed_optimizer, resumed, 10) == run(optimizer, scheduler, 10)
