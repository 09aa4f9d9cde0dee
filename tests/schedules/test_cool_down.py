"""A cool-down beside any schedule: the schedule's values up to its start, then the lr goes down."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.schedules import SMALL, lrs, momenta, sgd

SECTIONS = [{"type": name, "params": SMALL[name]} for name in SCHEDULERS]
SECTIONS += [{"type": "StepLR", "params": {"step_size": 3}}]


def cooled(section: dict[str, Any], optimizer: Any = None, **cool_down: Any) -> Any:
    config = SchedulerConfig.of({**section, "cool_down": cool_down})
    return config.build(sgd(lr=0.4) if optimizer is None else optimizer, total_steps=40)


@pytest.mark.filterwarnings("ignore:WarmupStableDecayLR")
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["type"])
def test_it_begins_as_the_schedule_and_goes_down_from_there(section: dict[str, Any]) -> None:
    alone: Any = SchedulerConfig.of(section).build(sgd(lr=0.4), total_steps=40)
    schedule = cooled(section, start=5, steps=8, shape="linear", lr=0.01)
    assert type(schedule) is type(alone)
    assert schedule.name == section["type"]
    for step in range(6):
        assert schedule.values_at(step) == alone.values_at(step)
    top = alone.lr_at(5)[0]
    for step in range(5, 14):
        assert schedule.lr_at(step) == pytest.approx([top + (0.01 - top) * (step - 5) / 8], rel=1e-12)
        assert schedule.momentum_at(step) == alone.momentum_at(5)
    assert schedule.lr_at(1000) == [0.01]
    assert schedule.schedule.length == (["cool_down.steps"], 13)


@given(st.integers(0, 20), st.integers(0, 12), st.sampled_from(["linear", "cosine", "1-sqrt", "exponential", "rex"]))
def test_training_preview_and_a_resume_have_the_same_values(saved_at: int, start: int, shape: str) -> None:
    section = {"type": "OneCycle", "params": SMALL["OneCycle"]}
    schedule, resumed = cooled(section, start=start, steps=6, shape=shape), None
    numbers = schedule.schedule.values({"lr": [0.4]})
    for step in range(saved_at + 8):
        if step:
            schedule.step()
        assert lrs(schedule.optimizer) == numbers.of_groups(step)["lr"]
        assert momenta(schedule.optimizer) == numbers.of_groups(step)["momentum"]
        if step == saved_at:
            resumed = cooled(section, start=start, steps=6, shape=shape)
            resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
        elif resumed is not None:
            resumed.step()
        if resumed is not None:
            assert lrs(resumed.optimizer) == lrs(schedule.optimizer)


def test_a_checkpoint_of_the_schedule_alone_is_cooled_down_from_there() -> None:
    section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.4, "warmup_num_steps": 2}}
    alone: Any = SchedulerConfig.of(section).build(sgd(lr=0.4))
    for _ in range(10):
        alone.step()
    schedule = cooled(section, start=10, steps=4, shape="linear")
    with pytest.warns(UserWarning, match=r"cool_down: None -> "):
        schedule.load_state_dict(alone.state_dict())
    assert lrs(schedule.optimizer) == [0.4]
    schedule.step()
    assert lrs(schedule.optimizer) == pytest.approx([0.3])


def test_it_lasts_to_the_end_of_the_run_unless_it_has_a_length() -> None:
    section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.4, "warmup_num_steps": 50}}
    config = SchedulerConfig.of({**section, "cool_down": {"start": 30}})
    assert config.needs_run == ["cool_down.total_num_steps"]
    assert config.build(sgd(), total_steps=40).schedule.turns == [30, 40]
    config = SchedulerConfig.of({**section, "cool_down": {"start": "ceil(0.5)", "steps": "1ep"}})
    assert config.build(sgd(), total_steps=41, steps_per_epoch=7).schedule.turns == [21, 28]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["type"])
def test_a_configuration_is_what_was_written(section: dict[str, Any]) -> None:
    written = {**section, "cool_down": {"start": 5, "steps": 0.2}}
    config = SchedulerConfig.of(written)
    assert config.to_dict()["cool_down"] == written["cool_down"]
    assert SchedulerConfig.of(config.to_dict()) == config
    resolved = config.resolve(sgd(), total_steps=40)
    assert resolved.to_dict()["cool_down"] == {"start": 5, "steps": 8}
    assert copy.deepcopy(resolved) == resolved


@pytest.mark.parametrize(
    ("cool_down", "message"),
    [
        (3, r"cool_down must be a mapping, got 3"),
        ({}, r"cool_down\.start is missing"),
        ({"from": 3}, r"cool_down\.from: there is no such key \(did you mean 'start'\?\); it takes start, steps"),
        ({"start": 3, "stesp": 2}, r"cool_down\.stesp: there is no such key \(did you mean 'steps'\?\)"),
        ({"start": -1}, r"cool_down\.start must be a whole number, at least 0, got -1"),
        ({"start": 3, "steps": 0}, r'cool_down\.steps must be a whole number, at least 1, got 0.*, or "rest"'),
        ({"start": 3, "lr": -0.1}, r"cool_down\.lr must be a finite number and at least 0"),
        ({"start": 3, "shape": "1sqrt"}, r"cool_down\.shape must be one of .* \(did you mean '1-sqrt'\?\)"),
        (
            {"start": 3, "steps": 2, "total_num_steps": 9},
            r'cool_down\.total_num_steps has no effect: steps is not "rest"',
        ),
        ({"start": 40}, r"cool_down\.start must lie before the end of the run, 40, got 40"),
    ],
)
def test_a_mistake_is_named_by_its_path(cool_down: Any, message: str) -> None:
    section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.4}, "cool_down": cool_down}
    with pytest.raises((ValueError, TypeError), match=rf"^scheduler\.{message}"):
        SchedulerConfig.of(section).build(sgd(), total_steps=40)


def test_the_key_belongs_into_the_section() -> None:
    section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.4}}
    with pytest.raises(ValueError, match=r"^cool_down: it belongs into the scheduler section: scheduler\.cool_down"):
        SchedulerConfig.of({"scheduler": section, "cool_down": {"start": 3}})
    with pytest.raises(ValueError, match=r"^scheduler\.cooldown: .* did you mean scheduler\.cool_down\?"):
        SchedulerConfig.of({**section, "cooldown": {"start": 3}})
