"""PhasedLR: what its rows in the table of values do not say."""

from __future__ import annotations

import warnings
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULERS, PhasedLR
from lightning_lrsched.schedules.phases import Phases
from tests.kit.phases import phased, repeated, written_out
from tests.kit.schedules import SMALL, adamw, lrs, momenta, sgd, small, train_step


def make(params: dict[str, Any], start: int = 0) -> PhasedLR:
    return PhasedLR(adamw(0.1, 0.3), **params, last_batch_iteration=start - 1)


def of_groups(value: Any, own: tuple[float, float] = (0.1, 0.3)) -> list[float]:
    if isinstance(value, dict):
        return [value["ratio"] * lr for lr in own]
    return value if isinstance(value, list) else [value, value]


@given(phased())
def test_it_is_continuous_at_the_seams_and_keeps_its_last_value(params: dict[str, Any]) -> None:
    schedule, lr, momentum = make(params), params["start_lr"], params["start_momentum"]
    assert schedule.lr_at(0) == of_groups(lr)
    assert schedule.momentum_at(0) == of_groups(momentum)
    end = 0
    for phase in params["phases"]:
        end += phase["steps"]
        lr, momentum = phase.get("lr", lr), phase.get("momentum", momentum)
        assert schedule.lr_at(end) == of_groups(lr)
        assert schedule.momentum_at(end) == of_groups(momentum)
    for later in (end + 1, end + 1000):
        assert (schedule.lr_at(later), schedule.momentum_at(later)) == (schedule.lr_at(end), schedule.momentum_at(end))


@given(phased())
def test_within_a_phase_lr_and_momentum_go_one_way(params: dict[str, Any]) -> None:
    schedule = make(params)
    ends = list(accumulate(phase["steps"] for phase in params["phases"]))
    for begin, end in pairwise([0, *ends]):
        for values_at in (schedule.lr_at, schedule.momentum_at):
            for values in zip(*(values_at(step) or [] for step in range(begin, end + 1)), strict=True):
                sign = 1 if values[-1] >= values[0] else -1
                assert all((after - before) * sign >= -1e-15 * max(values) for before, after in pairwise(values))


@given(phased() | repeated(), st.integers(0, 60))
def test_training_preview_and_a_resume_have_the_same_values(params: dict[str, Any], saved_at: int) -> None:
    schedule = make(params)
    numbers = Phases.parse(params).values({"lr": [0.1, 0.3]})  # what the preview shows; no optimizer
    resumed = None
    for step in range(saved_at + 8):
        if step:
            schedule.step()
        assert lrs(schedule.optimizer) == numbers.of_groups(step)["lr"]
        assert momenta(schedule.optimizer) == numbers.of_groups(step).get("momentum", momenta(schedule.optimizer))
        if step == saved_at:
            resumed = make(params)
            resumed.load_state_dict(schedule.state_dict())
        elif resumed is not None:
            resumed.step()
        if resumed is not None:
            assert lrs(resumed.optimizer) == lrs(schedule.optimizer)
            assert momenta(resumed.optimizer) == momenta(schedule.optimizer)


# Repeats, and the rest of the run -----------------------------------------------------------------------------------


@given(repeated())
def test_repeats_are_the_same_phases_written_out(params: dict[str, Any]) -> None:
    schedule, value, begin = make(params), params["start_lr"], 0
    for phase in written_out(params):
        length = phase.pop("cut", phase["steps"])
        alone = make({"phases": [phase], "start_lr": value})
        for step in range(length):
            assert schedule.lr_at(begin + step) == pytest.approx(alone.lr_at(step), rel=1e-12, abs=1e-15)
        value, begin = alone.lr_at(length)[0], begin + length
    assert schedule.lr_at(begin) == pytest.approx([value, value], rel=1e-12, abs=1e-15)
    assert schedule.schedule.length[1] == begin
    assert schedule.lr_at(begin + 100) == schedule.lr_at(begin)


CYCLE = [{"steps": 0, "lr": 1.0}, {"steps": "rest", "lr": 0.0}]


def test_the_rest_is_what_the_others_leave_of_the_run() -> None:
    config = SchedulerConfig("PhasedLR", phases=[{"steps": 0.1, "lr": 1.0}, {"steps": "REST"}, {"steps": 4, "lr": 0.0}])
    assert config.needs_run == ["phases[0].steps", "total_num_steps"]
    assert SchedulerConfig.of(config.to_dict()) == config
    schedule: Any = config.build(sgd(), total_steps=20)
    assert schedule.schedule.length == (["total_num_steps"], 20)
    assert [schedule.lr_at(step)[0] for step in (0, 1, 2, 16, 17, 20)] == [0.0, 0.5, 1.0, 1.0, 0.75, 0.0]
    resolved = config.resolve(None, total_steps=20)
    assert resolved.to_dict()["params"]["total_num_steps"] == 20
    assert SchedulerConfig.of(resolved.to_dict()).build(sgd()).lr_at(17) == [0.75]


def test_several_rests_share_what_is_left() -> None:
    phases = [{"steps": "rest", "lr": 1.0}, {"steps": 4}, {"steps": "rest", "lr": 0.0}]
    assert Phases.parse({"phases": phases, "total_num_steps": 11}).turns == [4, 8, 11]
    assert PhasedLR(sgd(), phases, total_num_steps=11).lr_at(9) == pytest.approx([2 / 3.5])


def test_a_rest_within_a_repeat_fills_the_run_with_all_of_them() -> None:
    schedule = PhasedLR(sgd(), [{"repeat": 3, "phases": CYCLE}], total_num_steps=10)
    assert [round(schedule.lr_at(step)[0], 9) for step in range(11)] == [
        *[1.0, 0.7, 0.4, 0.1, 0.8, 0.5, 0.2, 0.9, 0.6, 0.3, 0.0]
    ]


def test_a_rest_of_nothing_is_a_jump() -> None:
    schedule = PhasedLR(sgd(), [{"steps": 8, "lr": 1.0}, {"steps": "rest", "lr": 0.0}], total_num_steps=5)
    assert [schedule.lr_at(step)[0] for step in (7, 8, 9)] == [0.875, 0.0, 0.0]
    assert schedule.schedule.length == (["phases[0].steps", "phases[1].steps"], 8)


def test_the_peak_of_each_group_is_its_own() -> None:
    cycle = [{"steps": 2, "lr": [1.0, 0.1]}, {"steps": 2, "lr": [0.5, 0.4]}]
    schedule = PhasedLR(adamw(0.1, 0.3), [{"repeat": 2, "phases": cycle, "peak_factor": 0.25}])
    assert [schedule.lr_at(step) for step in (2, 4, 6, 8)] == [[1.0, 0.1], [0.5, 0.4], [0.25, 0.1], [0.5, 0.1]]


def test_the_course_is_known_before_the_peak_is() -> None:
    cycle = [{"steps": 0, "lr": "auto"}, {"steps": 3, "lr": 0.0}]
    config = SchedulerConfig("PhasedLR", phases=[{"repeat": 2, "phases": cycle, "peak_factor": 0.5}])
    assert config.schedule.turns == [0, 3, 6]
    assert config.build(adamw(0.1, 0.4)).lr_at(3) == [0.05, 0.2]


def test_without_a_run_the_rest_needs_a_total() -> None:
    with pytest.raises(ValueError, match=r"^total_num_steps='auto' needs to know how long the run is"):
        PhasedLR(sgd(), [{"steps": "rest"}])


def test_a_tail_goes_on_where_it_has_come_to() -> None:
    tail = {"steps": 30, "lr": 0.0, "shape": "inverse_sqrt", "timescale": 10}
    schedule = PhasedLR(sgd(), [tail, {"steps": 10, "lr": 0.0}], start_lr=1.0)
    assert [schedule.lr_at(step)[0] for step in (0, 30, 35, 40)] == pytest.approx([1.0, 0.5, 0.25, 0.0])
    assert not Phases.parse({"phases": [tail], "start_lr": 1.0}).ends_low


def test_a_timescale_is_no_part_of_the_course() -> None:
    tail = {"steps": 0.3, "lr": 1.0, "shape": "inverse_sqrt", "timescale": 0.5}
    config = SchedulerConfig("PhasedLR", phases=[tail, {"steps": 0.6}, {"steps": 0.1}])
    resolved = config.resolve(None, total_steps=66)
    assert [phase["steps"] for phase in resolved.params["phases"]] == [20, 39, 7]
    assert resolved.params["phases"][0]["timescale"] == 33


# Other schedules, written as phases --------------------------------------------------------------------------------

AS_PHASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OneCycle": (
        {"cycle_min_lr": 0.01, "cycle_max_lr": 0.3, "cycle_first_step_size": 37, "cycle_second_step_size": 51},
        {
            "phases": [{"steps": 37, "lr": 0.3, "momentum": 0.8}, {"steps": 51, "lr": 0.01, "momentum": 0.9}],
            "start_lr": 0.01,
            "start_momentum": 0.9,
        },
    ),
    "WarmupLR": (
        {"warmup_min_lr": 0.01, "warmup_max_lr": 0.3, "warmup_num_steps": 43, "warmup_type": "linear"},
        {"phases": [{"steps": 1}, {"steps": 43, "lr": 0.3}], "start_lr": 0.01},
    ),
    "WarmupDecayLR": (
        {"total_num_steps": 97, "warmup_max_lr": 0.3, "warmup_num_steps": 43, "warmup_type": "linear"},
        {"phases": [{"steps": 1}, {"steps": 43, "lr": 0.3}, {"steps": 54, "lr": 0.0}]},
    ),
    "WarmupCosineLR": (
        {"total_num_steps": 97, "warmup_num_steps": 0, "cos_min_ratio": 0.1},
        {"phases": [{"steps": 97, "lr": {"ratio": 0.1}, "shape": "cosine"}], "start_lr": {"ratio": 1.0}},
    ),
    "LRRangeTest": (
        {"lr_range_test_min_lr": 0.001, "lr_range_test_step_size": 20},
        {"phases": [{"steps": 120, "lr": 0.007}], "start_lr": 0.001},
    ),
    "WarmupStableDecayLR": (
        {
            "total_num_steps": 97,
            "warmup_max_lr": 0.3,
            "warmup_num_steps": 20,
            "warmup_type": "linear",
            "decay_num_steps": 31,
            "decay_type": "1-sqrt",
            "decay_min_lr": 0.01,
        },
        {
            "phases": [
                *[{"steps": 1}, {"steps": 20, "lr": 0.3}, {"steps": 45}, {"steps": 31, "lr": 0.01, "shape": "1-sqrt"}]
            ]
        },
    ),
}


@pytest.mark.parametrize("name", AS_PHASES)
def test_another_schedule_written_as_phases_has_the_same_values(name: str) -> None:
    params, phases = AS_PHASES[name]
    optimizer = sgd(lr=0.5)
    other, schedule = SCHEDULERS[name](optimizer, **params), PhasedLR(optimizer, **phases)
    for step in range(120):
        assert schedule.lr_at(step) == pytest.approx(other.lr_at(step), rel=1e-12, abs=0), step
        if name == "OneCycle":
            assert schedule.momentum_at(step) == pytest.approx(other.momentum_at(step), rel=1e-12, abs=0), step


# Momentum -----------------------------------------------------------------------------------------------------------


def test_without_a_momentum_in_it_the_optimizers_stays_as_it_is() -> None:
    schedule = PhasedLR(sgd(momentum=0.7), [{"steps": 4, "lr": 1.0}])
    schedule.step()
    assert schedule.momentum_at(3) is None
    assert momenta(schedule.optimizer) == [0.7]


def test_a_momentum_in_a_phase_needs_one_before_the_first() -> None:
    with pytest.raises(ValueError, match=r"^phases\[1\]\.momentum needs start_momentum"):
        PhasedLR(sgd(), [{"steps": 4, "lr": 1.0}, {"steps": 3, "momentum": 0.8}])
    with pytest.raises(ValueError, match=r"^scheduler\.params\.phases\[0\]\.momentum needs start_momentum"):
        SchedulerConfig("PhasedLR", phases=[{"steps": 0.5, "momentum": 0.8}])


def test_an_optimizer_without_momentum_gets_one_warning_and_the_lr() -> None:
    with pytest.warns(
        UserWarning, match=r"start_momentum has no effect: SGD has no momentum.*leave the momentum out\."
    ):
        schedule = small("PhasedLR", sgd(momentum=0.0))
    schedule.step()
    assert schedule.momentum_at(2) is None
    assert lrs(schedule.optimizer) == [0.325]


# In a configuration -------------------------------------------------------------------------------------------------

WORDS = [{"steps": 0.1, "lr": "auto"}, {"steps": "2ep"}, {"steps": "1e1", "lr": "1e-3", "shape": "cosine"}]


def test_lengths_and_learning_rates_are_resolved_within_a_phase() -> None:
    config = SchedulerConfig("PhasedLR", phases=WORDS, start_lr="auto")
    assert config.needs_run == ["phases[0].steps", "phases[1].steps"]
    assert config.needs_optimizer == ["phases[0].lr", "start_lr"]
    resolved = config.resolve(adamw(0.1, 0.3), total_steps=500, steps_per_epoch=40)
    assert resolved.to_dict()["params"] == {
        "phases": [{"steps": 50, "lr": [0.1, 0.3]}, {"steps": 80}, {"steps": 10, "lr": 0.001, "shape": "cosine"}],
        "start_lr": [0.1, 0.3],
    }


def test_auto_is_each_groups_own_lr_also_of_a_group_that_is_added_later() -> None:
    schedule: Any = SchedulerConfig("PhasedLR", phases=[{"steps": 4, "lr": "auto"}]).build(adamw(0.1))
    schedule.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.5})
    assert schedule.lr_at(4) == [0.1, 0.5]


def test_what_a_range_test_found_goes_into_the_phases() -> None:
    config = SchedulerConfig("PhasedLR", phases=[{"steps": 4, "lr": "lr_range_test"}, {"steps": 9, "lr": 0}])
    assert config.needs_range_test == ["phases[0].lr"]
    found = config.resolve(sgd(), findings={"low": 0.01, "high": 1.0, "suggestion": 0.2})
    assert found.to_dict()["params"]["phases"][0]["lr"] == 0.2
    assert config.without_range_test().needs_optimizer == ["phases[0].lr"]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"steps": 3, "shpae": "linear"}, r"phases\[1\]\.shpae: a phase has no such key \(did you mean 'shape'\?\)"),
        ({"lr": 0.1}, r"phases\[1\]\.steps is missing"),
        ({"steps": -1}, r'phases\[1\]\.steps must be a whole number.*, got -1; a length may also be .*\("2ep"\)'),
        ({"steps": "auto"}, r'phases\[1\]\.steps: "auto" has no meaning here'),
        ({"steps": 3, "lr": {"ratoi": 1}}, r'phases\[1\]\.lr must be a number or {"ratio": <number>}, got'),
        ({"steps": 3, "lr": {"ratio": "x"}}, r"phases\[1\]\.lr\.ratio must be a finite number"),
        ({"steps": 3, "lr": [0.1, -1]}, r"phases\[1\]\.lr\[1\] must be a finite number and at least 0, got -1"),
        (7, r"phases\[1\] must be a mapping, got 7"),
        ({"steps": "rset"}, r'phases\[1\]\.steps must be a whole number.*, or "rest" \(did you mean \'rest\'\?\)'),
        ({"steps": 3, "power": 2}, r'phases\[1\]\.power: the shape "linear" does not have it; polynomial, .* may'),
        ({"steps": 3, "gamma": 0.9}, r'phases\[1\]\.gamma: the shape "linear" does not have it; exponential may'),
        ({"steps": 3, "shape": "power_law", "power": 2}, r"phases\[1\]\.timescale is missing: the shape"),
        ({"steps": 3, "shape": "inverse_sqrt", "timescale": 0}, r"phases\[1\]\.timescale must be a whole number"),
        ({"steps": 3, "shape": "polynomia"}, r"phases\[1\]\.shape must be one of .* \(did you mean 'polynomial'\?\)"),
        ({"repeat": 2}, r"phases\[1\]\.phases is missing"),
        ({"phases": [{"steps": 1}]}, r"phases\[1\]\.repeat is missing"),
        ({"repeat": 0, "phases": [{"steps": 1}]}, r'phases\[1\]\.repeat must be a whole number, at least 1.*or "rest"'),
        ({"repeat": 10_001, "phases": [{"steps": 1}]}, r"phases\[1\]\.repeat must be at most 10000, got 10001"),
        (
            {"repaet": 2, "phases": [{"steps": 1}]},
            r"phases\[1\]\.repaet: a repeat has no such key \(did you mean 'repeat'",
        ),
        ({"repeat": 2, "phases": [{"lr": 1}]}, r"phases\[1\]\.phases\[0\]\.steps is missing"),
        (
            {"repeat": 2, "phases": [{"steps": 1, "momentum": 0.5}]},
            r"phases\[1\]\.phases\[0\]\.momentum needs start_mom",
        ),
        ({"repeat": 2000, "length_factor": 2, "phases": [{"steps": 1}]}, r"phases\[1\]\.length_factor must not make"),
        (
            {"repeat": "rest", "phases": [{"steps": "rest"}]},
            r"phases\[1\]\.phases\[0\]\.steps: phases\[1\]\.repeat takes",
        ),
    ],
)
def test_a_mistake_in_a_phase_is_named_by_its_path(phase: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^scheduler\.params\.{message}"):
        SchedulerConfig("PhasedLR", phases=[{"steps": 3}, phase])


def test_a_total_that_nothing_fills_is_refused() -> None:
    with pytest.raises(ValueError, match=r'^total_num_steps has no effect: no phase takes the "rest"'):
        PhasedLR(sgd(), [{"steps": 3}], total_num_steps=9)


def test_repeats_that_never_fill_the_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r'^phases\[0\]\.repeat="rest" does not fill the run with 10000 repeats'):
        PhasedLR(sgd(), [{"repeat": "rest", "length_factor": 0.5, "phases": [{"steps": 1}]}], total_num_steps=9)


def test_a_list_in_a_phase_has_one_value_for_each_group() -> None:
    with pytest.raises(ValueError, match=r"^phases\[0\]\.lr lists 3 values, but the optimizer has 2 param groups"):
        PhasedLR(adamw(0.1, 0.3), [{"steps": 3, "lr": [0.1, 0.2, 0.3]}])
    with pytest.raises(ValueError, match=r"^scheduler\.params: lists need .* got phases\[0\]\.lr 2, start_lr 3"):
        SchedulerConfig("PhasedLR", phases=[{"steps": 3, "lr": [0.1, 0.2]}], start_lr=[1, 2, 3])


def test_a_configuration_cannot_be_changed_through_its_phases() -> None:
    phases = [{"steps": 3, "lr": {"ratio": 1.0}}]
    config = SchedulerConfig("PhasedLR", phases=phases)
    phases[0]["steps"] = 4
    with pytest.raises(TypeError):
        config.params["phases"][0]["steps"] = 5
    assert config.to_dict() == {"type": "PhasedLR", "params": {"phases": [{"steps": 3, "lr": {"ratio": 1.0}}]}}
    assert SchedulerConfig.of(config.to_dict()) == config
    assert len({config, SchedulerConfig.of(config.to_dict())}) == 1


# The rest -----------------------------------------------------------------------------------------------------------


def test_a_resume_with_other_phases_names_what_has_changed() -> None:
    schedule = PhasedLR(sgd(), [{"steps": 4, "lr": 1.0}, {"steps": 3, "lr": 0.0}])
    for _ in range(2):
        train_step(schedule.optimizer)
        schedule.step()
    other = PhasedLR(sgd(), [{"steps": 8, "lr": 1.0}])
    with pytest.warns(UserWarning, match=r"phases\[0\]\.steps: 4 -> 8; phases\[1\]\.steps: 3 -> None"):
        other.load_state_dict(schedule.state_dict())
    assert lrs(other.optimizer) == [0.25]


def test_its_length_its_turns_and_whether_it_ends_low() -> None:
    schedule = Phases.parse(SMALL["PhasedLR"])
    assert schedule.length == (["phases[0].steps", "phases[1].steps", "phases[2].steps"], 11)
    assert schedule.turns == [4, 7, 11]


@pytest.mark.parametrize(
    ("start", "ends", "low"),
    [
        (0.0, [1.0, 0.1], True),
        (0.0, [1.0, 0.11], False),
        (0.0, [1.0, None], False),
        (1.0, [[0.1, 0.0]], True),
        (0.0, [{"ratio": 1.0}, {"ratio": 0.1}], True),
        (0.0, [{"ratio": 1.0}, {"ratio": 0.5}], False),
        (0.0, [{"ratio": 1.0}, 0.0], True),
        (0.0, [{"ratio": 1.0}, 1e-6], False),
    ],
)
def test_it_ends_low_at_a_tenth_of_its_highest_lr(start: Any, ends: list[Any], low: bool) -> None:
    phases = [{"steps": 3, "lr": lr} for lr in ends]
    assert Phases.parse({"phases": phases, "start_lr": start}).ends_low is low


def test_remarks_need_no_momentum_to_speak_of() -> None:
    assert Phases.parse({"phases": [{"steps": "2ep"}]}).remarks([], "SGD") == []


def test_a_hold_has_the_same_lr_to_the_last_digit() -> None:
    schedule = PhasedLR(sgd(), [{"steps": 7, "shape": "cosine"}], start_lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {schedule.lr_at(step)[0] for step in range(9)} == {0.1}
