"""The four warmups: what their rows in the table of values do not say."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_lrsched.optim.schedulers import (
    SCHEDULERS,
    SCHEDULES,
    WarmupCosineLR,
    WarmupDecayLR,
    WarmupLR,
    WarmupStableDecayLR,
)
from lightning_lrsched.schedules.warmup import effective_steps
from tests.kit.schedules import SMALL, adamw, sgd, small

WSD = "WarmupStableDecayLR"
shapes = st.sampled_from(["linear", "cosine", "1-sqrt", "exponential"])


def stable(total: int, warmup: int, decay: int | None, **params: Any) -> WarmupStableDecayLR:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"{WSD}: total_num_steps=")
        lengths: dict[str, Any] = {"warmup_num_steps": warmup, "decay_num_steps": decay}
        return WarmupStableDecayLR(sgd(), total, warmup_max_lr=1.0, warmup_type="linear", **lengths, **params)


def parsed(name: str, **params: Any) -> Any:
    return SCHEDULES[name].parse(params).completed()


@given(low=st.floats(0, 1), high=st.floats(1, 10), length=st.integers(2, 300), kind=st.sampled_from(["log", "linear"]))
def test_the_high_end_is_reached_exactly(low: float, high: float, length: int, kind: str) -> None:
    both: dict[str, Any] = {"warmup_num_steps": length, "warmup_type": kind}
    top = length if kind == "log" else length + 1
    assert WarmupLR(sgd(), low, high, **both).lr_at(top) == [high]
    assert WarmupDecayLR(sgd(), 1000, low, high, **both).lr_at(length + 1) == [high]


@given(lr=st.floats(1e-6, 10), length=st.integers(2, 300))
def test_the_optimizers_own_lr_is_reached_exactly(lr: float, length: int) -> None:
    assert WarmupCosineLR(sgd(lr=lr), 1000, 0.1, length, warmup_type="log").lr_at(length) == [lr]


def test_warmup_cosine_keeps_the_ratio_of_the_groups() -> None:
    schedule = small("WarmupCosineLR", adamw(0.1, 0.3))
    for step in range(15):
        first, second = schedule.lr_at(step)
        assert second == pytest.approx(3 * first, rel=1e-14)


@example(2, 1, 1, "linear")  # a warmup of one step takes two
@given(st.integers(1, 80), st.integers(0, 60), st.integers(0, 60), shapes)
def test_wsd_rises_to_its_peak_stays_and_falls(total: int, warmup: int, decay: int, shape: Any) -> None:
    made = stable(total, warmup, decay, decay_type=shape)
    lrs = [made.lr_at(step)[0] for step in range(total + warmup + 3)]
    peak = lrs.index(max(lrs))
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert lrs[-1] == (0.0 if decay else 1.0)
    if decay and effective_steps(warmup) + decay <= total:
        assert lrs[total - decay] == 1.0  # also where the warmup has only just ended
        assert lrs[total - 1] > 0.0


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 20))
def test_until_the_decay_the_lr_does_not_depend_on_when_it_comes(
    total: int, other_total: int, decay: int, other_decay: int, warmup: int
) -> None:
    one, other = stable(total, warmup, decay), stable(other_total, warmup, other_decay)
    for step in range(max(0, min(total - decay, other_total - other_decay))):
        assert one.lr_at(step) == other.lr_at(step)


def test_the_decay_is_a_fifth_where_no_length_is_given() -> None:
    assert [stable(total, warmup, None).schedule.decay_num_steps for total, warmup in ((100, 10), (2, 0))] == [20, 1]


# Remarks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR", WSD])
def test_the_default_max_lr_says_that_it_replaces_the_optimizers_lr(name: str) -> None:
    params = {k: v for k, v in SMALL[name].items() if not k.endswith("_lr")}
    with pytest.warns(UserWarning, match=rf"{name}: warmup_max_lr was not given.*own lr \(0.1\)") as caught:
        SCHEDULERS[name](sgd(lr=0.1), **params)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("WarmupLR", {"lr": 0.001}),
        ("WarmupLR", {"lr": torch.tensor(0.001)}),
        ("WarmupLR", {"lr": 0.1, "warmup_max_lr": float("0.001")}),
        ("WarmupCosineLR", {"lr": 0.1, "total_num_steps": 6, "warmup_num_steps": 6}),
        (WSD, {"lr": 0.1, "warmup_max_lr": None, "total_num_steps": 10, "warmup_num_steps": 4, "decay_num_steps": 6}),
    ],
)
def test_what_is_meant_as_it_stands_is_silent(name: str, params: dict[str, Any]) -> None:
    own = deepcopy(params)  # a schedule fills a tensor in place
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SCHEDULERS[name](sgd(lr=own.pop("lr")), **own)


@pytest.mark.parametrize(
    ("name", "lengths", "message", "values"),
    [
        ("WarmupDecayLR", {"total_num_steps": 3, "warmup_num_steps": 6}, "total_num_steps=3 is less than",
         {6: 1.0, 7: 0.1}),
        ("WarmupCosineLR", {"total_num_steps": 3, "warmup_num_steps": 6}, "total_num_steps=3 is less than",
         {6: 0.1, 7: 0.00001}),
        (WSD, {"total_num_steps": 3, "warmup_num_steps": 6, "decay_num_steps": 2}, "total_num_steps=3 is less than",
         {6: 0.05, 7: 0.05}),
        (WSD, {"total_num_steps": 10, "warmup_num_steps": 6, "decay_num_steps": 8},
         "total_num_steps=10 leaves 4 steps after warmup_num_steps=6 for the decay", {6: 1.0, 8: 0.525, 10: 0.05}),
    ],
)  # fmt: skip
def test_lengths_that_leave_no_room_are_said_once(
    name: str, lengths: Any, message: str, values: dict[int, float]
) -> None:
    with pytest.warns(UserWarning, match=f"^{name}: {message}") as caught:
        schedule = small(name, sgd(), **lengths)
    assert len(caught) == 1
    assert [schedule.lr_at(step)[0] for step in values] == pytest.approx(list(values.values()))


@pytest.mark.parametrize("name", ["WarmupDecayLR", "WarmupCosineLR", WSD])
@pytest.mark.parametrize("key", ["total_num_steps", "warmup_num_steps"])
def test_a_length_that_is_left_to_the_run_has_no_remark(name: str, key: str) -> None:
    params = {"total_num_steps": 3, "warmup_num_steps": 6, key: "auto"}
    assert SCHEDULES[name].parse(params).remarks([], None) == []


# Length ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "warmup", "length", "preview", "ends_low"),
    [
        ("WarmupLR", None, 4, (["warmup_num_steps"], 4), 8, False),
        ("WarmupLR", None, 0, (["warmup_num_steps"], 0), 100, False),
        ("WarmupDecayLR", 10, 4, (["total_num_steps"], 10), 10, True),
        ("WarmupDecayLR", 3, 4, (["warmup_num_steps"], 4), 4, True),
        ("WarmupCosineLR", 4, 4, (["total_num_steps"], 4), 4, True),
        (WSD, 12, 4, (["total_num_steps"], 12), 12, True),
    ],
)
def test_length_preview_and_whether_it_ends_low(
    name: str, total: int | None, warmup: int, length: Any, preview: int, ends_low: bool
) -> None:
    schedule = parsed(name, warmup_num_steps=warmup, **({} if total is None else {"total_num_steps": total}))
    assert (schedule.length, schedule.preview_steps, schedule.ends_low) == (length, preview, ends_low)


def test_a_stable_part_without_end_does_not_end_low() -> None:
    schedule = parsed(WSD, total_num_steps=12, decay_num_steps=0)
    assert (schedule.ends_low, schedule.turns) == (False, [1000])
    assert parsed(WSD, total_num_steps=12, warmup_num_steps=4, decay_num_steps=7).turns == [4, 5, 12]


def test_which_depend_on_the_optimizers_own_lr() -> None:
    of_warmup = [parsed("WarmupLR", warmup_max_lr=lr).own_names for lr in (None, "auto", 0.0, 1.0)]
    assert of_warmup == [{"lr"}, {"lr"}, set(), set()]
    assert parsed("WarmupCosineLR", total_num_steps=9).own_names == {"lr"}
