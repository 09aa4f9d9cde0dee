from __future__ import annotations

from lightning_lrsched.schedules.growth import ExponentialGrowth, LinearGrowth


def test_a_preview_shows_five_intervals() -> None:
    assert LinearGrowth.parse({"lr_range_test_step_size": 7}).preview_steps == 35


def test_exponential_growth_has_equal_ratios_and_stops_growing_at_its_last_step() -> None:
    schedule = ExponentialGrowth.parse({"lr_range_test_min_lr": [1.0, 3.0], "factor": 100, "last_step": 2})
    values = schedule.values({"lr": [1.0, 1.0]})
    assert [values.of_groups(step)["lr"] for step in (0, 1, 2, 9)] == [
        [1.0, 3.0],
        [10.0, 30.0],
        [100.0, 300.0],
        [100.0, 300.0],
    ]
