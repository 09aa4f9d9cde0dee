"""A schedule is a pure function of the position: values by name, words that become numbers, no optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.schedules.one_cycle import Cycle
from lightning_lrsched.schedules.phases import Phases
from lightning_lrsched.schedules.warmup import Warmup, WarmupDecay, WarmupStableDecay

CYCLE: dict[str, Any] = {"cycle_min_lr": 0.0, "cycle_max_lr": 1.0, "cycle_first_step_size": 4}


def test_values_come_by_name_for_each_group() -> None:
    values = Cycle.parse({**CYCLE, "cycle_max_lr": [1.0, 2.0]}).completed().values({"lr": [0.1, 0.1]})
    assert values.of_groups(2) == {"lr": [0.5, 1.0], "momentum": [pytest.approx(0.85)] * 2}
    assert list(Cycle.parse({**CYCLE, "cycle_momentum": False}).completed().values({"lr": [0.1]}).at(0)) == ["lr"]


def test_groups_with_the_same_parameters_share_one_value() -> None:
    values = Warmup.parse({"warmup_max_lr": [1.0, 2.0, 1.0], "warmup_num_steps": 0}).values({"lr": [1.0] * 3})
    assert (values.sets, values.set_of_group) == (2, [0, 1, 0])
    assert isinstance(values.at(5)["lr"], np.ndarray)
    alike = Warmup.parse({"warmup_max_lr": [1.0, 1.0]}).values({"lr": [1.0, 1.0]})
    assert (alike.sets, alike.at(5000)) == (1, {"lr": 1.0})
    scaled = values.scaled("lr", [1.0, 0.5, 0.1])
    assert scaled.of_groups(5) == {"lr": [1.0, 1.0, 0.1]}
    assert values.scaled("lr", [1.0] * 3) is values


@pytest.mark.parametrize(
    ("params", "own", "expected"),
    [
        ({"cycle_min_lr": "auto", "cycle_max_lr": "auto"}, [0.1, 0.2],
         {"cycle_min_lr": [0.01, 0.02], "cycle_max_lr": [0.1, 0.2]}),
        ({"cycle_min_lr": "auto", "cycle_max_lr": 1.0}, [0.1], {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0}),
        ({"cycle_min_lr": 0.0, "cycle_max_lr": "auto"}, [0.3, 0.3], {"cycle_min_lr": 0.0, "cycle_max_lr": 0.3}),
    ],
)  # fmt: skip
def test_auto_learning_rates_come_from_the_optimizer(params: Any, own: list[float], expected: Any) -> None:
    numbers = Cycle.parse(params).with_own({"lr": own}).params()
    assert {key: numbers[key] for key in expected} == {key: pytest.approx(v) for key, v in expected.items()}


def test_an_lr_that_waits_for_a_range_test_keeps_what_refers_to_it_waiting() -> None:
    schedule = Cycle.parse({"cycle_min_lr": "auto", "cycle_max_lr": "lr_range_test"})
    assert schedule.with_own({"lr": [0.1]}).waiting("optimizer") == ["cycle_min_lr"]
    found = schedule.resolve(Horizon(), {"high": 2.0, "low": 0.1, "suggestion": 1.0}).with_own({"lr": [0.1]})
    assert (found.cycle_max_lr, found.cycle_min_lr) == (2.0, pytest.approx(0.2))
    with pytest.raises(ValueError, match=r'^cycle_max_lr: "lr_range_test" needs LRSchedulerCallback'):
        schedule.resolve(Horizon())
    assert schedule.without_range_test().waiting("range test") == []


@pytest.mark.parametrize("total", range(10, 90))
def test_lengths_that_follow_each_other_are_together_as_long_as_their_sum(total: int) -> None:
    cycle = Cycle.parse(
        {**CYCLE, "cycle_first_step_size": "auto", "cycle_second_step_size": 0.6, "decay_step_size": 0.1}
    )
    resolved = cycle.resolve(Horizon(total))
    assert resolved.length == (["cycle_first_step_size", "cycle_second_step_size"], total - resolved.decay_step_size)
    phases = Phases.parse(
        {"phases": [{"steps": 0.3, "lr": 1}, {"steps": "1ep"}, {"steps": 7}, {"steps": 0.6, "lr": 0}]}
    )
    assert phases.resolve(Horizon(total, total / 10)).turns[-1] == total + 7


def test_what_the_run_does_not_say_can_be_left() -> None:
    schedule = WarmupDecay.parse({"total_num_steps": "auto", "warmup_num_steps": "2ep"})
    assert schedule.waiting("run") == ["total_num_steps", "warmup_num_steps"]
    assert schedule.resolve(Horizon(100), leave_unknown=True).given_params() == {
        "total_num_steps": 100, "warmup_num_steps": "2ep",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^warmup_num_steps='2ep' needs to know how long an epoch is, but the length"):
        schedule.resolve(Horizon(100))
    with pytest.raises(ValueError, match=r"^total_num_steps='99999999999999999ep' is longer than"):
        WarmupDecay.parse({"total_num_steps": "9" * 17 + "ep"}).resolve(Horizon(100, 10))


@pytest.mark.parametrize(
    ("kind", "params", "own", "message"),
    [
        (Warmup, {"warmup_min_lr": [0.0, 1.0]}, [0.1], "warmup_min_lr lists 2 values, but .* 1 param group:"),
        (Warmup, {"warmup_min_lr": 0.5, "warmup_max_lr": None}, [1.0, 0.1],
         r"warmup_min_lr must not be greater than the optimizer's lr, got .*param_groups\[1\]"),
        (WarmupStableDecay, {"total_num_steps": 9, "decay_min_lr": 1.0}, [0.1],
         "decay_min_lr must not be greater than warmup_max_lr"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_optimizer_is_refused(kind: Any, params: Any, own: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        kind.parse(params).completed().values({"lr": own})


def test_a_pair_is_compared_before_there_is_an_optimizer_where_both_are_numbers() -> None:
    with pytest.raises(ValueError, match=r"^cycle_min_lr must not be greater than cycle_max_lr"):
        Cycle.parse({**CYCLE, "cycle_min_lr": 2.0}).check_together()
    Cycle.parse({**CYCLE, "cycle_min_lr": "auto"}).check_together()
    with pytest.raises(ValueError, match="cycle_min_lr 2, cycle_max_lr 3"):
        Cycle.parse({"cycle_min_lr": [1, 2], "cycle_max_lr": [1, 2, 3]}).check_lists()


def test_weight_decay_is_one_more_name() -> None:
    phases = [{"steps": 2, "lr": 1.0}, {"steps": 2, "weight_decay": 0.3}, {"steps": 2, "weight_decay": {"ratio": 0.5}}]
    values = Phases.parse({"phases": phases}).values({"lr": [1.0] * 3, "weight_decay": [0.1, 0.0, 0.2]})
    decays = [values.of_groups(step)["weight_decay"] for step in (0, 2, 4, 6, 9)]
    # A group without weight decay (biases, norms) keeps none.
    assert decays == [
        pytest.approx(d) for d in ([0.1, 0, 0.2], [0.1, 0, 0.2], [0.3, 0, 0.3], [0.05, 0, 0.1], [0.05, 0, 0.1])
    ]


def test_every_schedule_is_known_by_its_type() -> None:
    assert all(name == schedule.type for name, schedule in SCHEDULES.items())
