from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched.schedulers import WarmupCosineLR, WarmupDecayLR, WarmupLR
from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.schedule import Circumstances
from tests.kit.schedules import SMALL, adamw, lrs, momenta, sgd, small

WARMUPS = ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]
TO_ONE = {"warmup_min_lr": 0.0, "warmup_max_lr": 1.0}


def curve(schedule: ClosedFormLR, steps: int) -> list[float]:
    return [schedule.lr_at(step)[0] for step in range(steps)]


LOG = [0.0, 0.0, 0.5, math.log(3) / math.log(4), 1.0]
LINEAR = [0.0, 0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("warmup_type", "expected"), [("log", LOG), ("linear", LINEAR)])
def test_the_first_five_values(warmup_type: str, expected: list[float]) -> None:
    both: dict[str, Any] = {"warmup_num_steps": 4, "warmup_type": warmup_type}
    assert curve(WarmupLR(sgd(), **TO_ONE, **both), 5) == expected
    assert curve(WarmupDecayLR(sgd(), 10, **TO_ONE, **both), 5) == expected
    assert curve(WarmupCosineLR(sgd(lr=1.0), 10, **both), 5) == expected


def test_warmup_lr_stays_at_the_high_end() -> None:
    schedule = WarmupLR(sgd(), **TO_ONE, warmup_num_steps=4)
    assert curve(schedule, 20)[4:] == [1.0] * 16


def test_warmup_decay_falls_in_a_line_and_stays_at_the_low_end() -> None:
    schedule = WarmupDecayLR(sgd(), 8, 0.5, 1.5, warmup_num_steps=4, warmup_type="linear")
    assert curve(schedule, 12) == [0.5, 0.5, 0.75, 1.0, 1.25, 1.5, 1.25, 1.0, 0.75, 0.5, 0.5, 0.5]


def test_warmup_cosine_falls_in_half_a_wave_and_stays_at_the_low_ratio() -> None:
    schedule = WarmupCosineLR(sgd(lr=2.0), 8, warmup_num_steps=4, cos_min_ratio=0.5)
    middle = 2.0 * (0.5 + 0.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert curve(schedule, 11)[4:] == pytest.approx([2.0, middle, 1.5, 3.0 - middle, 1.0, 1.0, 1.0], rel=1e-15)


def test_warmup_cosine_keeps_the_ratio_of_the_groups() -> None:
    schedule = small("WarmupCosineLR", adamw(0.1, 0.3))
    for step in range(15):
        first, second = schedule.lr_at(step)
        assert second == pytest.approx(3 * first, rel=1e-14)


@given(low=st.floats(0, 1), high=st.floats(1, 10), length=st.integers(2, 300), kind=st.sampled_from(["log", "linear"]))
def test_the_high_end_is_reached_exactly(low: float, high: float, length: int, kind: str) -> None:
    both: dict[str, Any] = {"warmup_num_steps": length, "warmup_type": kind}
    top = length if kind == "log" else length + 1
    assert WarmupLR(sgd(), low, high, **both).lr_at(top) == [high]
    assert WarmupDecayLR(sgd(), 1000, low, high, **both).lr_at(length + 1) == [high]


@given(lr=st.floats(1e-6, 10), length=st.integers(2, 300))
def test_the_optimizers_own_lr_is_reached_exactly(lr: float, length: int) -> None:
    assert WarmupCosineLR(sgd(lr=lr), 1000, 0.1, length, warmup_type="log").lr_at(length) == [lr]


@pytest.mark.parametrize("name", WARMUPS)
def test_a_warmup_of_no_steps_starts_at_the_top(name: str) -> None:
    optimizer = sgd(lr=1.0)
    schedule = small(name, optimizer, warmup_num_steps=0)
    assert lrs(optimizer) == [1.0]
    assert schedule.lr_at(1)[0] == pytest.approx(1.0, rel=0.02)


def test_without_warmup_the_decay_starts_at_once() -> None:
    assert curve(WarmupDecayLR(sgd(), 4, **TO_ONE, warmup_num_steps=0), 7) == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    cosine = WarmupCosineLR(sgd(lr=1.0), 4, warmup_num_steps=0, cos_min_ratio=0.0)
    assert curve(cosine, 6) == pytest.approx([1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0, 0.0], abs=1e-16)


def test_a_warmup_of_one_step_is_lengthened_to_two() -> None:
    assert curve(WarmupLR(sgd(), **TO_ONE, warmup_num_steps=1), 4) == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", WARMUPS)
def test_momentum_is_left_alone(name: str) -> None:
    schedule = small(name, adamw())
    schedule.step()
    assert schedule.momentum_at(3) is None
    assert momenta(schedule.optimizer) == [0.9]


def test_max_lr_none_is_each_groups_own_lr() -> None:
    assert WarmupLR(adamw(0.1, 0.3), warmup_max_lr=None, warmup_num_steps=4).lr_at(4) == [0.1, 0.3]


def test_max_lr_none_and_a_low_end_above_the_optimizers_lr_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^warmup_min_lr must not be greater than the optimizer's lr"):
        WarmupLR(sgd(lr=0.1), warmup_min_lr=0.2, warmup_max_lr=None)


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR"])
def test_the_default_max_lr_says_that_it_replaces_the_optimizers_lr(name: str) -> None:
    params = {k: v for k, v in SMALL[name].items() if k not in ("warmup_min_lr", "warmup_max_lr")}
    schedule_class = {"WarmupLR": WarmupLR, "WarmupDecayLR": WarmupDecayLR}[name]
    with pytest.warns(UserWarning, match=rf"{name}: warmup_max_lr was not given.*own lr \(0.1\)") as caught:
        schedule_class(sgd(lr=0.1), **params)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_the_default_max_lr_is_silent_where_it_replaces_nothing(kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = WarmupLR(sgd(lr=kind(0.001)), warmup_num_steps=4)
    assert schedule.lr_at(4) == [0.001]


def test_a_max_lr_that_was_given_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = WarmupLR(sgd(lr=0.1), warmup_max_lr=float("0.001"), warmup_num_steps=4)
    assert schedule.lr_at(4) == [0.001]


@pytest.mark.parametrize("name", ["WarmupDecayLR", "WarmupCosineLR"])
def test_a_total_shorter_than_the_warmup_warns_and_falls_right_after_the_warmup(name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name}: total_num_steps=3 is less than warmup_num_steps=6"):
        schedule = small(name, sgd(lr=1.0), total_num_steps=3, warmup_num_steps=6)
    low = 0.1 if name == "WarmupDecayLR" else 0.0001
    assert schedule.lr_at(6)[0] == 1.0
    assert schedule.lr_at(7)[0] == pytest.approx(low, rel=1e-12)


def test_max_lr_none_is_each_groups_own_lr_before_the_decay_too() -> None:
    schedule = WarmupDecayLR(adamw(0.1, 0.3), 10, warmup_max_lr=None, warmup_num_steps=4)
    assert [schedule.lr_at(step) for step in (4, 20)] == [[0.1, 0.3], [0.0, 0.0]]


@pytest.mark.parametrize("schedule_class", [WarmupDecayLR, WarmupCosineLR])
@pytest.mark.parametrize("left_to_the_run", ["total_num_steps", "warmup_num_steps"])
def test_a_length_that_is_left_to_the_run_has_no_remark(schedule_class: Any, left_to_the_run: str) -> None:
    parameters = {"total_num_steps": 3, "warmup_num_steps": 6, left_to_the_run: "auto"}
    assert schedule_class.remarks(Circumstances(parameters, defaulted=(), base_lrs=())) == []


def test_a_warmup_as_long_as_the_whole_has_no_remark() -> None:
    parameters = {"total_num_steps": 6, "warmup_num_steps": 6}
    assert WarmupCosineLR.remarks(Circumstances(parameters, defaulted=(), base_lrs=())) == []


@pytest.mark.parametrize(
    ("schedule_class", "total", "warmup", "length", "preview"),
    [
        (WarmupLR, None, 4, (["warmup_num_steps"], 4), 8),
        (WarmupLR, None, 0, (["warmup_num_steps"], 0), 100),
        (WarmupDecayLR, 10, 4, (["total_num_steps"], 10), 10),
        (WarmupDecayLR, 3, 4, (["warmup_num_steps"], 4), 4),
        (WarmupDecayLR, 4, 4, (["total_num_steps"], 4), 4),
        (WarmupCosineLR, 10, 4, (["total_num_steps"], 10), None),
        (WarmupCosineLR, 3, 4, (["warmup_num_steps"], 4), None),
    ],
)
def test_the_length_and_how_much_of_it_a_preview_shows(
    schedule_class: Any, total: int | None, warmup: int, length: Any, preview: int | None
) -> None:
    parameters = {"total_num_steps": total, "warmup_num_steps": warmup}
    assert schedule_class.length(parameters) == length
    if preview is not None:
        assert schedule_class.preview_steps(parameters) == preview


def test_which_schedules_end_low_and_which_scale_the_optimizers_lr() -> None:
    ends_low = [cls.ends_low({}) for cls in (WarmupLR, WarmupDecayLR, WarmupCosineLR)]
    assert ends_low == [False, True, True]
    assert [WarmupLR.scales_base_lr({"warmup_max_lr": lr}) for lr in (None, 0.0, 1.0)] == [True, False, False]
    assert WarmupCosineLR.scales_base_lr({}) is True
