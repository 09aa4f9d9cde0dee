"""Hyperparameters beside a schedule: constant, through phases of their own, in proportion to the lr."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, AdamW

from lightning_lrsched import LRSchedulerCallback, PhasedLR, SchedulerConfig, configure_optimizers
from lightning_lrsched.optim.hyperparameters import read_number
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.schedules import SMALL

Params = dict[str, Any]


def adamw() -> AdamW:
    """AdamW with a group that has no weight decay."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)]}]
    groups.append({"params": [torch.zeros(1, requires_grad=True)], "weight_decay": 0.0, "lr": 0.2})
    return AdamW(groups, lr=0.1, weight_decay=0.3)


def built(name: str, params: Params, beside: Params, optimizer: Any = None, **run: int) -> Any:
    config = SchedulerConfig(name, {**params, "hyperparameters": beside})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of OneCycle without momentum
        return config.build(adamw() if optimizer is None else optimizer, **run)


FOLLOWS = {"weight_decay": {"follows": "lr"}}


@pytest.mark.parametrize("name", [name for name in SMALL if name != "LRRangeTest"])
def test_weight_decay_in_proportion_to_the_lr_by_hand(name: str) -> None:
    schedule = built(name, SMALL[name], FOLLOWS)
    lrs = np.array([schedule.lr_at(step) for step in range(30)])
    decays = np.array([schedule.values_at(step)["weight_decay"] for step in range(30)])
    np.testing.assert_allclose(decays[:, 0], 0.3 * lrs[:, 0] / lrs[:, 0].max(), rtol=1e-12)
    assert not decays[:, 1].any()


def test_the_decay_of_a_step_is_that_of_adamc() -> None:
    # arXiv 2506.02285: the weights shrink by lr**2 / (highest lr) * decay.
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = AdamW([weight], lr=0.1, weight_decay=0.3)
    schedule = built("CosineAnnealingLR", {"T_max": 8}, FOLLOWS, optimizer)
    expected = 1.0
    for step in range(8):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        expected *= 1.0 - 0.3 * schedule.lr_at(step)[0] ** 2 / 0.1
        schedule.set_position(step + 1)
    assert weight.item() == pytest.approx(expected, rel=1e-12)


def test_a_lr_scale_leaves_the_ratio_to_the_peak_as_it_is() -> None:
    optimizer = adamw()
    optimizer.param_groups[0]["lr_scale"] = 0.5
    schedule = built("CosineAnnealingLR", {"T_max": 8}, FOLLOWS, optimizer)
    assert schedule.values_at(0)["weight_decay"] == [0.3, 0.0]
    assert schedule.values_at(4)["weight_decay"] == [pytest.approx(0.15), 0.0]


def test_phases_begin_with_the_own_value_and_their_lengths_are_their_own() -> None:
    phases = [{"steps": 0.5, "value": 0.95}, {"steps": 2, "value": 0.9, "shape": "cosine"}]
    beside = {"beta2": {"phases": phases}, "eps": {"phases": [{"steps": "100%", "value": {"ratio": 10}}]}}
    schedule = built("WarmupLR", SMALL["WarmupLR"], beside, total_steps=10)
    values = [schedule.values_at(step) for step in range(11)]
    assert [round(v["beta2"][0], 9) for v in values[::5]] == [0.999, 0.95, 0.9]
    assert values[6]["beta2"] == [pytest.approx(0.925)] * 2
    assert values[5]["eps"] == [pytest.approx(5.5e-8, rel=1e-12)] * 2


def test_betas_are_written_side_by_side() -> None:
    beside = {"momentum": {"phases": [{"steps": 4, "value": 0.5}]}, "beta2": 0.95, "eps": [1e-6, 1e-7]}
    schedule = built("WarmupLR", SMALL["WarmupLR"], beside)
    schedule.set_position(2)
    groups = schedule.optimizer.param_groups
    assert [group["betas"] for group in groups] == [(pytest.approx(0.7), 0.95)] * 2
    assert [group["eps"] for group in groups] == [1e-6, 1e-7]


def test_names_in_the_phases_of_phased_lr() -> None:
    phases = [{"steps": 4, "lr": 1.0, "beta2": 0.9, "eps": [1e-3, 1e-4]}, {"steps": 2, "beta2": {"ratio": 1.0}}]
    schedule = PhasedLR(adamw(), phases)
    assert schedule.values_at(2)["beta2"] == [pytest.approx(0.9495)] * 2
    assert schedule.values_at(4)["eps"] == [1e-3, 1e-4]
    assert schedule.values_at(6)["beta2"] == [0.999] * 2
    assert schedule.schedule.given_params()["phases"] == phases


@pytest.mark.parametrize(
    ("name", "beside", "message"),
    [
        ("WarmupLR", {"beta3": 0.5}, r"AdamW has no beta3 \(did you mean 'beta2'\?\); the numbers in its param_groups"),
        ("WarmupLR", {"weigth_decay": 0.5}, "did you mean 'weight_decay'"),
        ("WarmupLR", {"lr": 0.5}, "the lr is set by WarmupLR itself"),
        ("WarmupLR", {"beta1": 0.5}, 'called "momentum"'),
        ("OneCycle", {"momentum": 0.5}, "OneCycle sets it already; set cycle_momentum to false"),
        ("LRRangeTest", FOLLOWS, r"hyperparameters\.weight_decay\.peak is missing"),
        ("WarmupLR", {"beta2": {"follow": "lr"}}, "must be a number"),
        ("WarmupLR", {"beta2": {"follows": "momentum"}}, "follows must be one of 'lr'"),
        ("WarmupLR", {"beta2": 1.5}, r"scheduler\.params\.hyperparameters\.beta2 must be a finite number"),
        ("WarmupLR", {"eps": [1, 2, 3]}, r"hyperparameters\.eps lists 3 values"),
        ("WarmupLR", {"beta2": {"phases": [{"steps": 3, "value": 2}]}}, r"beta2\.phases\[0\]\.value must be"),
        ("WarmupLR", {"beta2": {"phases": [{"steps": 3, "beta2": 0.2}]}}, 'have the key "value"'),
        ("WarmupLR", 3, "must be a mapping of names"),
    ],
)
def test_what_is_wrong_is_named_before_the_first_step(name: str, beside: Any, message: str) -> None:
    optimizer = adamw()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        built(name, SMALL[name], beside, optimizer)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("phase", [{"steps": 4, "shap": "cosine"}, {"steps": 4, "dampening": 0.1}])
def test_a_phase_with_a_name_that_nothing_has(phase: Params) -> None:
    with pytest.raises(ValueError, match=r"has no such key|AdamW has no dampening"):
        PhasedLR(adamw(), [phase])


def test_the_argument_is_the_same_as_the_key() -> None:
    section = {"type": "WarmupLR", "params": SMALL["WarmupLR"]}
    written = SchedulerConfig("WarmupLR", SMALL["WarmupLR"], hyperparameters=FOLLOWS)
    assert SchedulerConfig.from_dict(written.to_dict()) == written
    assert SchedulerConfig.from_dict(section).beside(FOLLOWS) == written
    made = configure_optimizers(adamw(), section, hyperparameters=FOLLOWS)["lr_scheduler"]["scheduler"]
    assert made.values_at(3) == written.build(adamw()).values_at(3)
    with pytest.raises(ValueError, match="given twice"):
        LRSchedulerCallback(written, hyperparameters=FOLLOWS)


def test_a_course_that_is_no_longer_wanted_is_put_back_on_a_resume() -> None:
    first = built("WarmupLR", SMALL["WarmupLR"], {"weight_decay": 0.7, "beta2": 0.5})
    second = SchedulerConfig("WarmupLR", SMALL["WarmupLR"]).build(adamw())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    with pytest.warns(UserWarning, match="hyperparameters that differ"):
        second.load_state_dict(first.state_dict())
    group = second.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"][1]) == (0.3, 0.999)


def test_sgd_has_names_of_its_own() -> None:
    optimizer = SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    schedule = built("WarmupLR", SMALL["WarmupLR"], {"dampening": 0.1, "momentum": 0.8}, optimizer)
    assert schedule.values_at(0)["dampening"] == [0.1]
    assert optimizer.param_groups[0]["momentum"] == 0.8
    with pytest.raises(ValueError, match="SGD has no beta2"):
        built("WarmupLR", SMALL["WarmupLR"], {"beta2": 0.9}, optimizer)


# Preview, training and resume are one -----------------------------------------------------------------------------

fractions = st.floats(1e-6, 0.99)
courses = st.one_of(
    fractions,
    st.lists(fractions, min_size=2, max_size=2),
    st.builds(lambda ratio: {"ratio": ratio}, fractions),
    st.just({"follows": "lr", "peak": "auto"}),
    st.lists(
        st.fixed_dictionaries(
            {"steps": st.integers(0, 6), "value": fractions, "shape": st.sampled_from(["linear", "1-sqrt"])}
        ),
        min_size=1,
        max_size=3,
    ).map(lambda phases: {"phases": phases}),
)


@settings(deadline=None)
@given(
    name=st.sampled_from([*SCHEDULERS, "CosineAnnealingLR", "StepLR"]),
    beside=st.dictionaries(st.sampled_from(["weight_decay", "beta2", "eps"]), courses, min_size=1),
    stop=st.integers(0, 12),
)
def test_preview_training_and_resume_have_the_same_values(name: str, beside: Params, stop: int) -> None:
    params = SMALL.get(name) or {"CosineAnnealingLR": {"T_max": 9}, "StepLR": {"step_size": 3}}[name]
    schedule = built(name, params, beside)
    preview = [schedule.values_at(step) for step in range(14)]

    def train(follower: Any, steps: range) -> None:
        for step in steps:
            for values_name, values in preview[step].items():
                held = [read_number(values_name, group) for group in follower.optimizer.param_groups]
                assert held == values
            follower.step()

    train(schedule, range(stop))
    state, weights = pickle.loads(pickle.dumps((schedule.state_dict(), schedule.optimizer.state_dict())))
    resumed = built(name, params, beside)
    resumed.optimizer.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(resumed, range(stop, 13))
    assert [pickle.loads(pickle.dumps(resumed)).values_at(step) for step in range(14)] == preview
