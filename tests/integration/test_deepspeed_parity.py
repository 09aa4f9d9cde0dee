"""Every schedule equals DeepSpeed's own, step by step, on random configurations and real optimizers.

These tests need DeepSpeed and are slow. The quick ones read values that DeepSpeed gave before: ``test_golden.py``.
"""

from __future__ import annotations

import json
import math
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_lrsched.optim.schedulers import SCHEDULERS
from lightning_lrsched.schedules.one_cycle import MAX_MOMENTUM
from tests.integration.make_golden import GOLDEN, with_values
from tests.kit.schedules import SMALL, adamw, lrs, momenta

STEPS = 320
TOLERANCE = 1e-12
many = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

rates = st.one_of(st.just(0.0), st.floats(1e-6, 10.0))
positive_lrs = st.floats(1e-8, 10.0)
lr_values = st.one_of(st.just(0.0), positive_lrs)
# DeepSpeed subtracts from the high end: a tiny low end would be lost in its rounding.
momentum_values = st.floats(0.01, 0.998)
sizes = st.one_of(st.integers(1, 150), st.integers(1, 600))
warmup_types = st.sampled_from(["log", "linear"])


@st.composite
def group_lrs(draw: st.DrawFn) -> list[float]:
    """The lr of each of one to three param groups."""
    return draw(st.lists(positive_lrs, min_size=1, max_size=3))


@st.composite
def ranges(draw: st.DrawFn, values: st.SearchStrategy[float], groups: int) -> tuple[Any, Any]:
    """Low and high ends: two numbers, or two lists with one number per param group."""
    pairs = [sorted(draw(st.tuples(values, values))) for _ in range(groups)]
    if draw(st.booleans()):
        return [low for low, _ in pairs], [high for _, high in pairs]
    return tuple(pairs[0])


@st.composite
def range_tests(draw: st.DrawFn, groups: int) -> dict[str, Any]:
    per_group = st.lists(positive_lrs, min_size=groups, max_size=groups)
    return {
        "lr_range_test_min_lr": draw(st.one_of(positive_lrs, per_group)),
        "lr_range_test_step_size": draw(sizes),
        "lr_range_test_step_rate": draw(st.floats(1e-6, 100.0)),
        "lr_range_test_staircase": draw(st.booleans()),
    }


@st.composite
def one_cycles(draw: st.DrawFn, groups: int) -> dict[str, Any]:
    min_lr, max_lr = draw(ranges(lr_values, groups))
    min_mom, max_mom = draw(ranges(momentum_values, groups))
    return {
        "cycle_min_lr": min_lr,
        "cycle_max_lr": max_lr,
        "decay_lr_rate": draw(rates),
        "cycle_first_step_size": draw(sizes),
        "cycle_second_step_size": draw(st.one_of(st.none(), st.just(0), sizes)),
        "cycle_first_stair_count": draw(st.one_of(st.just(0), st.integers(1, 20))),
        "cycle_second_stair_count": draw(st.one_of(st.none(), st.integers(0, 20))),
        "decay_step_size": draw(st.one_of(st.just(0), sizes)),
        "cycle_momentum": draw(st.booleans()),
        "cycle_min_mom": min_mom,
        "cycle_max_mom": max_mom,
        "decay_mom_rate": draw(st.one_of(rates, st.floats(1e-6, 0.01))),
    }


@st.composite
def warmups(draw: st.DrawFn, groups: int) -> dict[str, Any]:
    min_lr, max_lr = draw(ranges(lr_values, groups))
    return {
        "warmup_min_lr": min_lr,
        "warmup_max_lr": max_lr,
        "warmup_num_steps": draw(sizes),
        "warmup_type": draw(warmup_types),
    }


@st.composite
def warmup_decays(draw: st.DrawFn, groups: int) -> dict[str, Any]:
    return {"total_num_steps": draw(sizes), **draw(warmups(groups))}


@st.composite
def warmup_cosines(draw: st.DrawFn, _groups: int) -> dict[str, Any]:
    return {
        "total_num_steps": draw(sizes),
        "warmup_min_ratio": draw(st.floats(0.0, 1.0)),
        "warmup_num_steps": draw(sizes),
        "cos_min_ratio": draw(st.floats(0.0, 1.0)),
        "warmup_type": draw(warmup_types),
    }


CONFIGURATIONS = {
    "LRRangeTest": range_tests,
    "OneCycle": one_cycles,
    "WarmupLR": warmups,
    "WarmupDecayLR": warmup_decays,
    "WarmupCosineLR": warmup_cosines,
}


def relative_error(ours: float, theirs: float) -> float:
    if ours == theirs:
        return 0.0
    return abs(ours - theirs) / abs(theirs) if theirs else math.inf


def build_both(deepspeed: ModuleType, name: str, own_lrs: list[float], tensor: bool, params: dict[str, Any]) -> Any:
    """Return our schedule and DeepSpeed's, each on an AdamW of its own."""

    def optimizer() -> torch.optim.AdamW:
        return adamw(*(torch.tensor(lr, dtype=torch.float64) if tensor else lr for lr in own_lrs))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is less than warmup_num_steps", category=UserWarning)
        ours = SCHEDULERS[name](optimizer(), **params)
    return ours, getattr(deepspeed, name)(optimizer(), **params)


def compare(ours: Any, theirs: Any, errors: dict[str, float], first_step: int = 0) -> None:
    """Drive both for ``STEPS`` steps; every lr, and every momentum that DeepSpeed keeps below the cap, is equal."""
    name = type(ours).__name__
    for step in range(STEPS + 1):
        if step:
            ours.step()
            theirs.step()
        if step >= first_step:
            worst = max(map(relative_error, lrs(ours.optimizer), lrs(theirs.optimizer)))
            assert worst <= TOLERANCE, (step, lrs(ours.optimizer), lrs(theirs.optimizer))
            errors[f"{name} lr"] = max(errors.get(f"{name} lr", 0.0), worst)
        if step >= 1:
            their_momenta = momenta(theirs.optimizer)
            if max(their_momenta) <= MAX_MOMENTUM:
                worst = max(map(relative_error, momenta(ours.optimizer), their_momenta))
                assert worst <= TOLERANCE, (step, momenta(ours.optimizer), their_momenta)
                errors[f"{name} momentum"] = max(errors.get(f"{name} momentum", 0.0), worst)


@pytest.mark.parametrize("golden", json.loads(GOLDEN.read_text()))
def test_the_golden_values_are_those_of_the_installed_deepspeed(golden: dict[str, Any], deepspeed: ModuleType) -> None:
    now = with_values(golden, deepspeed)
    for quantity in ("lr", "momentum"):
        assert (golden[quantity] is None) == (now[quantity] is None)
        for then, value in zip(golden[quantity] or [], now[quantity] or [], strict=True):
            assert then == (value if value is None else pytest.approx(value, rel=TOLERANCE, abs=0))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_random_configurations_equal_deepspeed(
    name: str, deepspeed: ModuleType, largest_errors: dict[str, float]
) -> None:
    @many
    @given(data=st.data(), own_lrs=group_lrs(), tensor=st.booleans())
    def equal(data: st.DataObject, own_lrs: list[float], tensor: bool) -> None:
        params = data.draw(CONFIGURATIONS[name](len(own_lrs)))
        ours, theirs = build_both(deepspeed, name, own_lrs, tensor, params)
        # DeepSpeed's first cosine step has ratio 0 whatever warmup_min_ratio says: corrected on purpose.
        compare(ours, theirs, largest_errors, first_step=1 if name == "WarmupCosineLR" else 0)

    equal()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        pytest.param(
            "LRRangeTest",
            {"lr_range_test_min_lr": [0.1, 0.2], "lr_range_test_step_size": 7, "lr_range_test_staircase": True},
            id="staircase",
        ),
        pytest.param(
            "OneCycle",
            {
                "cycle_min_lr": [0.1, 0.0],
                "cycle_max_lr": [0.2, 0.3],
                "cycle_first_step_size": 13,
                "cycle_second_step_size": 29,
                "cycle_first_stair_count": 5,
                "cycle_second_stair_count": 3,
            },
            id="stairs",
        ),
        pytest.param(
            "OneCycle",
            {"cycle_min_lr": 0.1, "cycle_max_lr": 0.2, "cycle_first_step_size": 10, "cycle_second_step_size": 0},
            id="no second half",
        ),
        pytest.param(
            "OneCycle",
            {
                "cycle_min_lr": 0.1,
                "cycle_max_lr": 0.2,
                "cycle_first_step_size": 10,
                "decay_step_size": 10,
                "decay_mom_rate": 0.003,
            },
            id="momentum grows, lr does not decay",
        ),
        pytest.param("WarmupLR", {"warmup_max_lr": 0.1, "warmup_num_steps": 1}, id="warmup of one step"),
        pytest.param("WarmupLR", {"warmup_max_lr": None, "warmup_num_steps": 10}, id="each group's own lr"),
        pytest.param(
            "WarmupDecayLR",
            {"total_num_steps": 10, "warmup_max_lr": 0.1, "warmup_num_steps": 50, "warmup_type": "linear"},
            id="decay shorter than the warmup",
        ),
        pytest.param(
            "WarmupCosineLR", {"total_num_steps": 10, "warmup_num_steps": 50}, id="wave shorter than the warmup"
        ),
    ],
)
def test_the_corners_of_each_schedule_equal_deepspeed(
    name: str, params: dict[str, Any], deepspeed: ModuleType, largest_errors: dict[str, float]
) -> None:
    compare(*build_both(deepspeed, name, [0.1, 0.2], False, params), largest_errors)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("last_batch_iteration", [0, 5, 99])
def test_a_start_in_the_middle_equals_deepspeed_from_its_next_step_on(
    name: str, last_batch_iteration: int, deepspeed: ModuleType, largest_errors: dict[str, float]
) -> None:
    params = {**SMALL[name], "last_batch_iteration": last_batch_iteration}
    compare(*build_both(deepspeed, name, [0.1], False, params), largest_errors, first_step=1)
