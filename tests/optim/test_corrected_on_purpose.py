"""Where the schedules differ from DeepSpeed 0.19.8 on purpose: what it does, and what ours do instead."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from lightning_lrsched.optim.schedulers import SCHEDULERS, OneCycle, WarmupDecayLR, WarmupLR
from tests.kit.schedules import SMALL, adamw, lrs, momenta, parameter, sgd, small

CYCLE: dict[str, Any] = {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0, "cycle_first_step_size": 4}


def second_beta(optimizer: Any) -> Any:
    return optimizer.param_groups[0]["betas"][1]


def lr_and_momentum(optimizer: Any) -> Any:
    return lrs(optimizer) + momenta(optimizer)


DECAY = {**CYCLE, "decay_step_size": 1, "decay_mom_rate": 0.1}
HALF = {"total_num_steps": 10, "warmup_num_steps": 4, "warmup_min_ratio": 0.5}
OTHER_VALUES = {
    # what: (optimizer, schedule, its parameters, position, what is read, DeepSpeed's, ours)
    "the second beta": (lambda: adamw(betas=(0.9, 0.95)), "OneCycle", CYCLE, 0, second_beta, 0.99, 0.95),
    "the first momentum": (adamw, "OneCycle", CYCLE, 0, lr_and_momentum, [0.1, 0.8], [0.1, 0.9]),
    "momentum that grows for ever": (adamw, "OneCycle", DECAY, 20, momenta, [pytest.approx(2.07)], [0.999]),
    "the momentum of SGD": (sgd, "OneCycle", CYCLE, 4, momenta, [0.9], [0.8]),
    "the first ratio of the cosine": (lambda: sgd(lr=1.0), "WarmupCosineLR", HALF, 0, lrs, [0.0], [0.5]),
}


@pytest.mark.parametrize("what", OTHER_VALUES)
class TestOtherValues:
    def test_deepspeed(self, what: str, deepspeed: ModuleType) -> None:
        make, name, params, position, read, theirs, _ = OTHER_VALUES[what]
        optimizer = make()
        schedule = getattr(deepspeed, name)(optimizer, **params)
        if position:
            schedule.step(position)
        assert read(optimizer) == theirs

    def test_ours(self, what: str) -> None:
        make, name, params, position, read, _, ours = OTHER_VALUES[what]
        optimizer = make()
        SCHEDULERS[name](optimizer, **params).step(position)
        assert read(optimizer) == pytest.approx(ours, rel=1e-15)


class TestUnknownWarmupType:
    def test_deepspeed_takes_log(self, deepspeed: ModuleType) -> None:
        schedule = deepspeed.WarmupLR(sgd(), warmup_max_lr=1.0, warmup_num_steps=4, warmup_type="linaer")
        schedule.step(1)
        assert schedule.get_last_lr() == [math.log(2) / math.log(4)]

    @pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
    def test_ours(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"^warmup_type must be one of .*did you mean 'linear'"):
            small(name, sgd(lr=1.0), warmup_type="linaer")


NONSENSE: list[tuple[str, dict[str, Any]]] = [
    ("OneCycle", {"cycle_min_lr": 2.0}),
    ("OneCycle", {"cycle_min_mom": 0.95}),
    ("OneCycle", {"cycle_max_mom": 1.5}),
    ("OneCycle", {"cycle_first_step_size": 2.5}),
    ("OneCycle", {"cycle_first_step_size": True}),
    ("OneCycle", {"cycle_first_stair_count": -1}),
    ("OneCycle", {"decay_step_size": -3}),
    ("WarmupLR", {"warmup_min_lr": 2.0}),
    ("WarmupLR", {"warmup_num_steps": True}),
    ("WarmupDecayLR", {"total_num_steps": -5}),
    ("WarmupCosineLR", {"total_num_steps": 7.5}),
    ("LRRangeTest", {"lr_range_test_step_rate": -1.0}),
    ("LRRangeTest", {"lr_range_test_step_size": True}),
]


@pytest.mark.parametrize(("name", "nonsense"), NONSENSE)
class TestNonsenseIsAccepted:
    def test_deepspeed(self, name: str, nonsense: dict[str, Any], deepspeed: ModuleType) -> None:
        schedule = getattr(deepspeed, name)(adamw(1.0), **{**SMALL[name], **nonsense})
        schedule.step()
        assert schedule.last_batch_iteration == 0

    def test_ours(self, name: str, nonsense: dict[str, Any]) -> None:
        (key,) = nonsense
        with pytest.raises((ValueError, TypeError), match=rf"^{key} must "):
            small(name, adamw(1.0), **nonsense)


class TestNoWarmupSteps:
    def test_deepspeed_refuses(self, deepspeed: ModuleType) -> None:
        with pytest.raises(ValueError, match="warmup_num_steps must be a positive integer"):
            deepspeed.WarmupLR(sgd(), warmup_num_steps=0)

    @pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
    def test_ours_starts_at_the_high_end(self, name: str) -> None:
        optimizer = sgd(lr=1.0)
        small(name, optimizer, warmup_num_steps=0)
        assert lrs(optimizer) == [1.0]


class TestARangeTestFromZero:
    def test_deepspeed_stays_there_for_ever(self, deepspeed: ModuleType) -> None:
        schedule = deepspeed.LRRangeTest(sgd(), lr_range_test_min_lr=0.0)
        schedule.step(1_000_000)
        assert schedule.get_last_lr() == [0.0]

    @pytest.mark.parametrize("min_lr", [0.0, [0.0]])
    def test_ours_refuses(self, min_lr: Any) -> None:
        with pytest.raises(ValueError, match=r"^lr_range_test_min_lr(\[0\])? must be .* greater than 0"):
            small("LRRangeTest", sgd(), lr_range_test_min_lr=min_lr)


class TestGetLastLrAndLoading:
    def test_deepspeed_has_no_last_lr_before_the_first_step(self, deepspeed: ModuleType) -> None:
        with pytest.raises(AssertionError):
            deepspeed.OneCycle(adamw(), **CYCLE).get_last_lr()

    def test_deepspeed_does_not_apply_what_it_loads(self, deepspeed: ModuleType) -> None:
        optimizer = adamw()
        schedule = deepspeed.OneCycle(optimizer, **CYCLE)
        schedule.step(1)
        before = (lrs(optimizer), momenta(optimizer), list(schedule.get_last_lr()))
        schedule.load_state_dict({"last_batch_iteration": 3})
        assert (lrs(optimizer), momenta(optimizer), schedule.get_last_lr()) == before

    def test_ours_is_valid_from_construction_on_and_applies_what_it_loads(self) -> None:
        optimizer = adamw()
        schedule = OneCycle(optimizer, **CYCLE)
        assert schedule.get_last_lr() == [0.1]
        schedule.load_state_dict({"last_batch_iteration": 3})
        assert schedule.get_last_lr() == lrs(optimizer) == [1.0]
        assert momenta(optimizer) == [0.8]


class TestAParamGroupAddedLater:
    """Ours schedules it: ``test_scheduled_lr.py``."""

    def test_deepspeed_skips_it(self, deepspeed: ModuleType) -> None:
        optimizer = adamw(0.1)
        schedule = deepspeed.OneCycle(optimizer, **CYCLE)
        optimizer.add_param_group({"params": [parameter()], "lr": 0.3})
        schedule.step(3)
        assert lrs(optimizer) == [1.0, 0.3]


class TestTheDefaultMaxLr:
    def test_deepspeed_replaces_the_optimizers_lr_without_a_word(
        self, deepspeed: ModuleType, caplog: pytest.LogCaptureFixture
    ) -> None:
        schedule = deepspeed.WarmupDecayLR(sgd(lr=0.1), total_num_steps=100, warmup_num_steps=4)
        schedule.step(4)
        assert schedule.get_last_lr() == [0.001]
        assert not caplog.records

    def test_ours_says_so_once(self) -> None:
        with pytest.warns(UserWarning, match=r"default 0.001 replaces the optimizer's own lr \(0.1\)") as caught:
            schedule = WarmupDecayLR(sgd(lr=0.1), total_num_steps=100, warmup_num_steps=4)
        assert len(caught) == 1
        assert schedule.lr_at(5) == [0.001]

    def test_the_default_of_warmup_lr_is_the_documented_one(self, deepspeed: ModuleType) -> None:
        theirs = deepspeed.WarmupLR(sgd(lr=0.1), warmup_num_steps=4)
        theirs.step(4)
        assert theirs.get_last_lr() == [0.1]
        with pytest.warns(UserWarning, match=r"default 0.001 replaces"):
            ours = WarmupLR(sgd(lr=0.1), warmup_num_steps=4)
        assert ours.lr_at(5) == [0.001]
