"""The configurations that a range test suggests: they build, here and in DeepSpeed, at any length of the run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lightning_lrsched import RangeTestResult, SchedulerConfig
from lightning_lrsched.schedules.length import Horizon
from tests.kit.records import sweep


@pytest.mark.parametrize("ratios", [(1.0,), (0.1, 1.0)])
@pytest.mark.parametrize("total", [10, 99, 1000])
@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
def test_the_configuration_is_json_and_builds(make, total, ratios):
    config = json.loads(json.dumps(make(sweep(ratios=ratios), total)))
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in ratios], lr=0.1)
    schedule = SchedulerConfig.of(config).build(optimizer)
    highest = max(schedule.lr_at(step)[-1] for step in range(total + 1))
    key = "cycle_max_lr" if config["type"] == "OneCycle" else "warmup_max_lr"
    assert highest == pytest.approx(schedule.hyperparameters[key][-1] if len(ratios) > 1 else config["params"][key])
    assert schedule.lr_at(total)[-1] < 0.2 * highest
    for first, last in [(lr[0], lr[-1]) for lr in map(schedule.lr_at, range(total))]:
        assert first == pytest.approx(ratios[0] * last)


@pytest.mark.parametrize("ratios", [(1.0,), (0.1, 1.0)])
@pytest.mark.parametrize("total", [10, 99, 1000])
@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
def test_the_configuration_builds_in_deepspeed_too(make, total, ratios, deepspeed):
    config = make(sweep(ratios=ratios), total)
    ours, theirs = (torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in ratios], lr=0.1) for _ in range(2))
    schedule = SchedulerConfig.of(config).build(ours)
    twin = getattr(deepspeed, config["type"])(theirs, **config["params"])
    for _ in range(total):
        twin.step()
    assert twin.get_last_lr() == pytest.approx(schedule.lr_at(total))


@pytest.mark.parametrize(
    ("momentum", "asked", "cycled"),
    [("momentum", None, True), ("betas", None, False), (None, None, False), ("betas", True, True),
     ("momentum", False, False)],
)  # fmt: skip
def test_momentum_is_cycled_where_that_serves_and_where_it_is_asked_for(momentum, asked, cycled):
    result = replace(sweep(), momentum=momentum)
    params = result.one_cycle(100, cycle_momentum=asked)["params"]
    assert params["cycle_momentum"] is cycled
    assert ("cycle_min_mom" in params) is cycled


@pytest.mark.parametrize("total", [9, -1, 2.5, "many", True])
def test_a_wrong_length_is_refused(total):
    with pytest.raises((TypeError, ValueError), match="total_num_steps"):
        sweep().one_cycle(total)


@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
@pytest.mark.parametrize("total", [50, 1000])
def test_a_configuration_without_a_number_fits_a_run_of_any_length(make, total):
    config = json.loads(json.dumps(make(sweep())))
    with_number = make(sweep(), total)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    schedule = SchedulerConfig.of(config).build(optimizer, Horizon(total=total))
    twin = SchedulerConfig.of(with_number).build(torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9))
    assert schedule.hyperparameters == twin.hyperparameters
