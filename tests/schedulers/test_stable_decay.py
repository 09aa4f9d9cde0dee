"""WarmupStableDecayLR: what its row in the table of values does not say."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched.schedulers import WarmupStableDecayLR
from lightning_lrsched.schedulers.schedule import Circumstances
from tests.kit.schedules import SMALL, sgd, small

NAME = "WarmupStableDecayLR"


def schedule(total: int, warmup: int, decay: int | None, **params: Any) -> WarmupStableDecayLR:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="WarmupStableDecayLR: total_num_steps=")
        return WarmupStableDecayLR(
            sgd(),
            total,
            warmup_max_lr=1.0,
            warmup_num_steps=warmup,
            warmup_type="linear",
            decay_num_steps=decay,
            **params,
        )


def test_the_decay_is_a_fifth_where_no_length_is_given() -> None:
    assert schedule(100, 10, None).hyperparameters["decay_num_steps"] == 20
    assert schedule(2, 0, None).hyperparameters["decay_num_steps"] == 1


def test_a_decay_that_the_warmup_leaves_no_room_for_is_shorter_and_says_so() -> None:
    with pytest.warns(UserWarning, match=f"{NAME}: total_num_steps=10 leaves 4 steps after warmup_num_steps=6 for the"):
        short = small(NAME, sgd(), total_num_steps=10, warmup_num_steps=6, decay_num_steps=8, decay_min_lr=0.0)
    assert [short.lr_at(step)[0] for step in (6, 7, 8, 10)] == pytest.approx([1.0, 0.75, 0.5, 0.0])


def test_a_decay_that_just_fits_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(NAME, sgd(), total_num_steps=10, warmup_num_steps=4, decay_num_steps=6)


def test_a_warmup_longer_than_the_whole_runs_to_its_end_and_says_so() -> None:
    with pytest.warns(UserWarning, match="is less than warmup_num_steps=6: the lr falls") as caught:
        long = small(NAME, sgd(), total_num_steps=3, warmup_num_steps=6, decay_num_steps=2)
    assert len(caught) == 1
    assert long.lr_at(5)[0] > 0.9
    assert long.lr_at(6)[0] == long.lr_at(7)[0] == 0.05


@pytest.mark.parametrize("key", ["total_num_steps", "warmup_num_steps", "decay_num_steps"])
def test_a_length_that_is_left_to_the_run_has_no_remark(key: str) -> None:
    parameters = {"total_num_steps": 10, "warmup_num_steps": 6, "decay_num_steps": 6, key: "auto"}
    assert WarmupStableDecayLR.remarks(Circumstances(parameters, defaulted=(), base_lrs=())) == []


def test_the_low_end_of_the_decay_may_not_lie_above_the_stable_lr() -> None:
    with pytest.raises(ValueError, match=r"^decay_min_lr must not be greater than warmup_max_lr, got decay_min_lr=2.0"):
        small(NAME, sgd(), decay_min_lr=2)


def test_its_length_and_whether_it_ends_low() -> None:
    parameters = WarmupStableDecayLR.check(SMALL[NAME])
    assert WarmupStableDecayLR.length(parameters) == (["total_num_steps"], 12)
    assert WarmupStableDecayLR.preview_steps(parameters) == 12
    assert WarmupStableDecayLR.ends_low(parameters) is True
    assert WarmupStableDecayLR.ends_low({**parameters, "decay_num_steps": 0}) is False


lengths = st.integers(0, 60)


@given(st.integers(1, 80), lengths, lengths, st.sampled_from(["linear", "cosine", "1-sqrt", "exponential"]))
def test_it_rises_to_its_peak_stays_and_falls(total: int, warmup: int, decay: int, shape: Any) -> None:
    made = schedule(total, warmup, decay, decay_type=shape)
    lrs = [made.lr_at(step)[0] for step in range(total + warmup + 3)]
    peak = lrs.index(max(lrs))
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert lrs[-1] == (0.0 if decay else 1.0)
    if decay and warmup + decay <= total:
        assert lrs[total - decay] == 1.0  # also where the warmup has only just ended
        assert lrs[total - 1] > 0.0


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 20))
def test_until_the_decay_the_lr_does_not_depend_on_when_it_comes(
    total: int, other_total: int, decay: int, other_decay: int, warmup: int
) -> None:
    one, other = schedule(total, warmup, decay), schedule(other_total, warmup, other_decay)
    for step in range(max(0, min(total - decay, other_total - other_decay))):
        assert one.lr_at(step) == other.lr_at(step)
