"""lr and momentum of every param group, without an optimizer."""

from __future__ import annotations

import pytest

from lightning_lrsched.schedulers import OneCycle, WarmupCosineLR, WarmupLR
from lightning_lrsched.schedulers.group_values import check_order


def test_groups_with_the_same_parameters_share_one_value() -> None:
    values = OneCycle.values(OneCycle.check({"cycle_min_lr": [0.0, 0.1, 0.0], "cycle_max_lr": 1.0}), [0.5, 0.6, 0.7])
    assert (values.sets, values.set_of_group) == (2, [0, 1, 0])
    assert values.lr_at(0) == [0.0, 0.1, 0.0]
    assert values.lr_at(2000) == [1.0, 1.0, 1.0]
    assert values.momentum_at(2000) == [0.8, 0.8, 0.8]


def test_own_lrs_tell_groups_apart_only_where_the_schedule_scales_them() -> None:
    own = WarmupLR.values(WarmupLR.check({"warmup_max_lr": None, "warmup_num_steps": 2}), [0.5, 0.6])
    fixed = WarmupLR.values(WarmupLR.check({"warmup_num_steps": 2}), [0.5, 0.6])
    assert (own.sets, own.lr_at(5)) == (2, [0.5, 0.6])
    assert (fixed.sets, fixed.lr_at(5)) == (1, [0.001, 0.001])


def test_momentum_is_none_where_it_is_not_scheduled() -> None:
    parameters = OneCycle.check({"cycle_min_lr": 0.1, "cycle_max_lr": 1.0})
    assert OneCycle.values(parameters, [0.1], cycles_momentum=False).momentum_at(0) is None
    assert WarmupCosineLR.values(WarmupCosineLR.check({"total_num_steps": 10}), [0.1]).momentum_at(3) is None


def test_a_list_is_as_long_as_the_param_groups() -> None:
    parameters = WarmupLR.check({"warmup_max_lr": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"^warmup_max_lr lists 2 values, but the optimizer has 3 param groups"):
        WarmupLR.values(parameters, [0.1, 0.1, 0.1])


def test_the_low_end_may_not_lie_above_the_high_end() -> None:
    check_order({"low": [1.0, 2.0], "high": [1.0, 3.0]}, None, [("low", "high")])
    message = r"^low must not be greater than high, got low=2.0 and high=1.0 \(optimizer.param_groups\[1\]\)"
    with pytest.raises(ValueError, match=message):
        check_order({"low": [1.0, 2.0], "high": 1.0}, None, [("low", "high")])
    with pytest.raises(ValueError, match=r"^low must not be greater than the optimizer's lr, got low=2.0"):
        check_order({"low": 2.0, "high": None}, [3.0, 1.0], [("low", "high")])
    check_order({"low": 2.0, "high": None}, None, [("low", "high")])  # the optimizer's lr is not known yet
    check_order({"low": 2.0, "high": "auto"}, [1.0], [("low", "high")])
