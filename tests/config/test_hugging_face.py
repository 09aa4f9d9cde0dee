"""Hugging Face's names: the values are those of transformers at every step; what cannot be, is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.config.hugging_face import REFUSED, TYPES, from_hugging_face
from tests.kit.schedules import sgd

transformers = pytest.importorskip(
    "transformers", minversion="5.0", reason="transformers 5, whose values these are, is missing"
)

LR = 0.3

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "cosine": [{"num_cycles": 1.5}, {"num_cycles": 2}],
    "cosine_with_restarts": [{"num_cycles": 3}, {"num_cycles": 7}],
    "polynomial": [{"power": 2.5, "lr_end": 0.01}, {"power": 0.5}],
    "inverse_sqrt": [{"timescale": 40}],
    "cosine_with_min_lr": [{"min_lr": 0.02}, {"min_lr_rate": 0.1, "num_cycles": 1}],
    "cosine_warmup_with_min_lr": [{"min_lr_rate": 0.1}, {"min_lr": 0.02, "warmup_lr_rate": 0.05}],
    "warmup_stable_decay": [
        {"num_decay_steps": 30},
        {"num_decay_steps": 30, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
        {"num_decay_steps": 30, "warmup_type": "cosine", "decay_type": "linear", "num_stable_steps": 40},
    ],
}
NEEDED = {"cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"}
CASES = [(name, kwargs) for name in TYPES for kwargs in ([{}] if name not in NEEDED else []) + ARGUMENTS.get(name, [])]


def theirs(name: str, warmup: int, total: int, kwargs: dict[str, Any]) -> list[float]:
    optimizer = sgd(lr=LR)
    total_or_none = None if "num_stable_steps" in kwargs else total
    scheduler = transformers.get_scheduler(name, optimizer, warmup, total_or_none, kwargs)
    lrs = []
    for _ in range(total):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return lrs


def ours(section: dict[str, Any], total: int) -> list[float]:
    schedule = SchedulerConfig.of(section).build(sgd(lr=LR), total_steps=total)
    return [schedule.lr_at(step)[0] for step in range(total)]


def test_every_name_of_transformers_is_known() -> None:
    assert {kind.value for kind in transformers.SchedulerType} == {*TYPES, *REFUSED}


@pytest.mark.parametrize(("name", "kwargs"), CASES)
@pytest.mark.parametrize("warmup", [2, 13, 50])
def test_the_values_are_those_of_transformers(name: str, kwargs: dict[str, Any], warmup: int) -> None:
    warmup = 0 if name == "constant" else warmup
    section = {"lr_scheduler_type": name, "warmup_steps": warmup, "lr_scheduler_kwargs": kwargs}
    assert ours(section, 121) == pytest.approx(theirs(name, warmup, 121, kwargs), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", sorted(set(TYPES) - NEEDED))
def test_without_a_warmup_too(name: str) -> None:
    assert ours({"lr_scheduler_type": name}, 60) == pytest.approx(theirs(name, 0, 60, {}), rel=1e-12, abs=1e-13)


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(["linear", "cosine", "inverse_sqrt", "constant_with_warmup"]),
    ratio=st.floats(1e-5, 0.99),
    total=st.integers(2, 300),
    key=st.sampled_from(["warmup_ratio", "warmup_steps"]),
)
def test_a_fraction_is_rounded_up_as_its_trainer_does(name: str, ratio: float, total: int, key: str) -> None:
    expected = theirs(name, math.ceil(total * ratio), total, {})
    assert ours({"lr_scheduler_type": name, key: ratio}, total) == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_it_may_be_a_section_of_a_file_and_have_our_keys_beside_it() -> None:
    section = {"lr_scheduler_type": "linear", "warmup_steps": 4, "unit": "sample", "cool_down": {"start": 8}}
    other_arguments = dict.fromkeys(field.name for field in dataclasses.fields(transformers.TrainingArguments))
    for config in (section, {"scheduler": section}, {**other_arguments, **section}):
        made = SchedulerConfig.of(config)
        assert made.type == "PhasedLR"
        assert (made.unit, made.to_dict()["cool_down"]["start"]) == ("sample", 8)
    assert SchedulerConfig.of(from_hugging_face(section)) == SchedulerConfig.of(section)


def test_each_param_group_has_its_own_peak() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 0.3)])
    schedule = SchedulerConfig.of({"lr_scheduler_type": "cosine", "warmup_steps": 5}).build(optimizer, total_steps=20)
    assert schedule.lr_at(5) == [0.1, 0.3]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau"},
            r'lr_scheduler_type="reduce_lr_on_plateau": it follows a metric',
        ),
        ({"lr_scheduler_type": "greedy"}, r'lr_scheduler_type="greedy": it follows a metric'),
        ({"lr_scheduler_type": "cosin"}, r"lr_scheduler_type must be one of 'linear'.* \(did you mean 'cosine'\?\)"),
        ({"lr_scheduler_type": 3}, r"lr_scheduler_type must be one of"),
        ({"lr_scheduler_type": "linear", "warmup_step": 3}, r"warmup_step: .* \(did you mean 'warmup_steps'\?\)"),
        ({"lr_scheduler_type": "cosine", "num_cycles": 3}, r"num_cycles: it belongs into lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "linear", "warmup_steps": -1}, r"warmup_steps must be a finite number and at least 0"),
        ({"lr_scheduler_type": "linear", "warmup_ratio": 2}, r"warmup_ratio must be .* at most 1, got 2"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, r'lr_scheduler_type="constant" has no warmup'),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": "{}"}, r"lr_scheduler_kwargs must be a mapping"),
    ],
)
def test_what_cannot_be_meant_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^scheduler\.{message}"):
        SchedulerConfig.of({"scheduler": section})


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("cosine", {"num_cycle": 1}, r"num_cycle: .* \(did you mean 'num_cycles'\?\); it takes num_cycles"),
        ("linear", {"power": 1}, r'power: "linear" has no such argument; it takes none'),
        ("cosine", {"num_cycles": 0.7}, r"num_cycles must be a multiple of 0.5, got 0.7"),
        ("cosine_with_restarts", {"num_cycles": 1.5}, r"num_cycles must be a whole number"),
        ("cosine_with_min_lr", {}, r"min_lr or min_lr_rate must be given, one of them"),
        ("cosine_with_min_lr", {"min_lr": 1, "min_lr_rate": 1}, r"min_lr or min_lr_rate must be given, one of them"),
        ("warmup_stable_decay", {}, r"num_decay_steps is missing"),
        ("warmup_stable_decay", {"num_decay_steps": 3, "decay_type": "exp"}, r"decay_type must be one of"),
        ("warmup_stable_decay", {"num_decay_steps": 3, "num_cycles": 1}, r"num_cycles must be 0.5, got 1"),
        ("inverse_sqrt", {"timescale": 0}, r"timescale must be a whole number, at least 1"),
    ],
)
def test_a_wrong_argument_is_named(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^scheduler\.lr_scheduler_kwargs\.{message}"):
        SchedulerConfig.of({"lr_scheduler_type": name, "lr_scheduler_kwargs": kwargs})


def test_the_early_cosine_needs_a_warmup_in_steps() -> None:
    section = {"lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    for warmup in ({}, {"warmup_ratio": 0.1}):
        with pytest.raises(ValueError, match=r"^scheduler\.warmup_steps must be a number of steps, at least 1"):
            SchedulerConfig.of({**section, **warmup})
