"""A refused constructor names the key and leaves the optimizer exactly as it was."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.schedules import NAMES, adamw, small, snapshot

NOT_FINITE = [math.nan, math.inf, -math.inf, 10**400]
NO_NUMBER = [True, "0,1", {}, 1j, torch.tensor(0.1)]
NO_COUNT = [*NO_NUMBER, "auto", *NOT_FINITE, [3], -1, 2.5, -3.0]
NO_LIST = [[], [0.1], [0.1, 0.2, 0.3], [0.1, None], [0.1, [0.2]], [0.1, -1.0], [0.1, math.nan]]

not_negative = [*NO_NUMBER, *NOT_FINITE, -1, -1e-300]
rate = [*not_negative, "auto", None, [0.1, 0.1]]
lr_or_list = [*not_negative, *NO_LIST, None]
momentum_or_list = [*lr_or_list, "auto", 1, 1.0, 1.5, [0.5, 1.0]]
ratio = [*rate, 1.1]
count_from_0 = [*NO_COUNT, None]
count_from_1 = [*count_from_0, 0, 0.0]
flag = [0, 1, "true", "False", None, 0.0, [True]]

BAD: dict[str, list[Any]] = {
    # LRRangeTest
    "lr_range_test_min_lr": [*lr_or_list, 0, [0.1, 0.0]],
    "lr_range_test_step_size": count_from_1,
    "lr_range_test_step_rate": [*rate, 0],
    "lr_range_test_staircase": flag,
    # OneCycle
    "cycle_min_lr": [*lr_or_list, 1.5, [0.1, 1.5]],
    "cycle_max_lr": [*lr_or_list, 0.05],
    "decay_lr_rate": rate,
    "cycle_first_step_size": count_from_1,
    "cycle_second_step_size": NO_COUNT,
    "cycle_first_stair_count": count_from_0,
    "cycle_second_stair_count": NO_COUNT,
    "decay_step_size": count_from_0,
    "cycle_momentum": flag,
    "cycle_min_mom": [*momentum_or_list, 0.95, [0.5, 0.95]],
    "cycle_max_mom": [*momentum_or_list, 0.7],
    "decay_mom_rate": rate,
    # The schedules with a warmup
    "total_num_steps": count_from_1,
    "warmup_min_lr": [*lr_or_list, 1.5],
    "warmup_max_lr": [*not_negative, *NO_LIST, 0.05],
    "warmup_num_steps": count_from_0,
    "warmup_type": ["Log", "linaer", "cosine", "", None, 1, True, ["log"]],
    "warmup_min_ratio": ratio,
    "cos_min_ratio": ratio,
    "decay_num_steps": NO_COUNT,
    "decay_type": ["Linear", "sqrt", "exponentiel", "", None, 1],
    "decay_min_lr": [*lr_or_list, 1.5],
    # PhasedLR
    "phases": [
        *[None, True, 3, "linear", {}, {"steps": 3}, [], [3], [None], [[]], [{}], [{"lr": 0.1}]],
        *[[{"steps": 3}, {"steps": value}] for value in [*NO_COUNT[:-3], None, -1, 0.5, [3]]],
        *[
            [{"steps": 3, "lr": value}]
            for value in [*lr_or_list, {}, {"ratio": -1}, {"ratio": [1]}, [{"ratio": 1}]]
            if value is not None
        ],
        *[[{"steps": 3, "momentum": value}] for value in momentum_or_list if value is not None],
        *[[{"steps": 3, "shape": value}] for value in ["Linear", "sqrt", "", None, 1]],
        *[[{"steps": 3, key: 1}] for key in ["step", "shpae", "", 3]],
        *[[{"steps": 3, "shape": "polynomial", "power": value}] for value in [*not_negative, 0, None]],
        *[[{"steps": 3, "shape": "inverse_sqrt", "timescale": value}] for value in count_from_1],
        *[[{"steps": 3, "shape": "exponential", "gamma": value}] for value in [*not_negative, 0, 1.1]],
        *[[{"repeat": value, "phases": [{"steps": 3}]}] for value in [*count_from_1, 10_001]],
        *[[{"repeat": 2, "phases": value}] for value in [None, 3, [], [3], [{}], {"steps": 3}]],
        *[[{"repeat": 2, "phases": [{"steps": 3}], "length_factor": value}] for value in [*rate, 0]],
        *[[{"repeat": 2, "phases": [{"steps": 3}], "peak_factor": value}] for value in [*rate, 1.1]],
    ],
    "start_lr": [*lr_or_list, {}, {"ratio": -1}, {"ratio": 1, "of": 2}],
    "start_momentum": [value for value in momentum_or_list if value is not None],
    # All
    "last_batch_iteration": [*NO_COUNT[:-3], None, -2, 0.5],
}
"""Key, of whichever schedule -> what its small configuration cannot have there."""

CASES = [
    pytest.param(name, key, value, id=f"{name}-{key}-{str(value)[:20]}")
    for name, scheduler in SCHEDULERS.items()
    for key in [*scheduler.kind.fields, "last_batch_iteration"]
    for value in BAD[key]
    if (name, key, value) != ("PhasedLR", "total_num_steps", None)  # the run
]


def optimizer_with_tensors() -> torch.optim.AdamW:
    """Return an optimizer of two groups, one with a tensor lr, and one hook of its own."""
    optimizer = adamw(0.1, torch.tensor(0.1))
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_a_bad_value_is_refused_by_name_and_the_optimizer_is_as_before(name: str, key: str, value: Any) -> None:
    optimizer = optimizer_with_tensors()
    before = snapshot(optimizer)
    with pytest.raises((ValueError, TypeError), match=rf"\b{key}\b"):
        small(name, optimizer, **{key: value})
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_keyword_is_a_type_error(name: str) -> None:
    optimizer = optimizer_with_tensors()
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=r"has no argument 'cycle_max_lrs'"):
        small(name, optimizer, cycle_max_lrs=1.0)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("name", "missing"),
    [("OneCycle", "cycle_min_lr"), ("WarmupDecayLR", "total_num_steps"), ("WarmupCosineLR", "total")],
)
def test_a_missing_argument_is_pythons_own_type_error(name: str, missing: str) -> None:
    with pytest.raises(TypeError, match=rf"missing .* required positional arguments?: .*{missing}"):
        SCHEDULERS[name](adamw())


numbers = st.one_of(
    st.integers(), st.floats(), st.integers(-3, 30), st.floats(0, 1), st.sampled_from([0.5, 10**30, 10**400, 1e308])
)
json_values = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(max_size=8),
    st.sampled_from(["auto", "log", "linear", "exponential"]),
    st.lists(numbers, max_size=3),
    st.dictionaries(st.text(max_size=3), numbers, max_size=2),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_json_value_is_taken_or_refused_by_name(name: str, data: st.DataObject) -> None:
    keys = [*SCHEDULERS[name].kind.fields, "last_batch_iteration"]
    chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4, unique=True))
    changes = {key: data.draw(json_values, label=key) for key in chosen}
    optimizer = optimizer_with_tensors()
    before = snapshot(optimizer)
    schedule, refusal = None, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule = small(name, optimizer, **changes)
    except (ValueError, TypeError) as error:
        refusal = str(error)
    if schedule is None:
        assert any(key in refusal for key in chosen)
        assert snapshot(optimizer) == before
        return
    for step in (0, 1, 2, 10, 1000, 2**53):
        assert all(isinstance(lr, float) and lr >= 0 for lr in schedule.lr_at(step))
        assert all(0 <= momentum < 1 for momentum in schedule.momentum_at(step) or [])
    schedule.step()
    assert schedule.last_epoch == changes.get("last_batch_iteration", -1) + 2
