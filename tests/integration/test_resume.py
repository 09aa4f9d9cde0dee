"""Resuming with something else than was saved: told, and nothing silently wrong."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig
from lightning_lrsched.optim.scheduled_lr import _flat as flatten
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.runs import (
    CONFIGS,
    ONE_CYCLE,
    WARMUP,
    ManualNet,
    Net,
    RestoresLater,
    StatefulLoader,
    ValidatedNet,
    adamw,
    checkpoint,
    fit,
    groups,
    quiet_trainer,
    sgd,
    through_module,
    two_optimizers,
)

SAVED_AT, STEPS = 7, 16
COSINE = CONFIGS["WarmupCosineLR"]
OWN_LR = {"type": "WarmupLR", "params": {"warmup_max_lr": None, "warmup_num_steps": 4}}
PHASES = CONFIGS["PhasedLR"]["params"]["phases"]
OTHER = {
    "LRRangeTest": {"lr_range_test_min_lr": 0.7},
    "OneCycle": {"cycle_max_lr": 2.0},
    "WarmupLR": {"warmup_max_lr": 0.7},
    "WarmupDecayLR": {"warmup_max_lr": 0.7},
    "WarmupCosineLR": {"total_num_steps": 20},
    "WarmupStableDecayLR": {"decay_num_steps": 5},
    "PhasedLR": {"phases": [{"steps": 20, "lr": 2.0}, *PHASES[1:]]},
}
BOTH = ("callback", "configure_optimizers")
BOTH_ROUTES = pytest.mark.parametrize("route", BOTH)
MANUAL: dict[str, Any] = {"module_class": ManualNet, "max_steps": 22}


def routed(route: str, config: Any, make: Any = adamw) -> tuple[Any, Any]:
    """(configuration for the callback, configure_optimizers of the module)"""
    if config is None or route == "callback":
        return config, make
    return None, through_module(make, config)


def with_params(config: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {**config, "params": {**config["params"], **params}}


def lrs(module: Any, index: int = 0) -> list[list[float]]:
    return [[lr for lr, _ in values] for number, values in module.used if number == index]


def expected(config: Any, steps: range, own_lrs: tuple[float, ...] = (0.01, 0.03)) -> list[list[float]]:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in own_lrs], momentum=0.9)
    schedule = SchedulerConfig.of(config).build(optimizer)
    return [schedule.lr_at(step) for step in steps]


def half_as_fast(module: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{**group, "lr": group["lr"] / 2} for group in groups(module)])


def torchs_own(interval: str) -> Callable[[Any], Any]:
    def configure(module: Any) -> dict[str, Any]:
        optimizer = sgd(module)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    return configure


# Save at a step, change something, expect a position ------------------------------------------------------------------


@dataclass
class Case:
    """A fit that is saved, and one that goes on from there: each a schedule, and what makes the optimizer."""

    before: tuple[Any, ...]
    now: tuple[Any, ...]
    told: str | None
    routes: tuple[str, ...] = ("callback",)
    position: int = SAVED_AT
    own_lrs: tuple[float, ...] = (0.01, 0.03)
    strategy: Any = None


def changed(name: str) -> Case:
    now = with_params(CONFIGS[name], **OTHER[name])
    before, after = flatten(CONFIGS[name]["params"]), flatten(now["params"])
    changes = [f"{key}: {old!r} -> {after.get(key)!r}" for key, old in before.items() if old != after.get(key)]
    assert changes
    told = f"{name} resumes at step {SAVED_AT} with hyperparameters that differ from the saved ones; the current ones"
    return Case((CONFIGS[name],), (now,), f"^{told} are used: {re.escape('; '.join(changes))}$", BOTH)


def without_a_state(name: str, before: Any, make: Any, now: Any = None, **options: Any) -> Case:
    told = f"^LRSchedulerCallback: the checkpoint was saved without {name} for optimizer 0; the schedule continues from"
    return Case(before, (now or CONFIGS[name], make), f"{told} step {SAVED_AT}", **options)


LR = r"the optimizer's lr: \[0\.01, 0\.03\] -> \[0\.005, 0\.015\]$"
GIVEN = with_params(ONE_CYCLE, last_batch_iteration=2)
CASES = {
    **{f"{name} changed": changed(name) for name in SCHEDULERS},
    "another type": Case(
        (ONE_CYCLE,), (WARMUP,), "WarmupLR resumes at step 7 .*: type: 'OneCycle' -> 'WarmupLR'$", BOTH
    ),
    "another lr": Case((COSINE,), (COSINE, half_as_fast), LR, BOTH, own_lrs=(0.005, 0.015)),
    "another own lr": Case((OWN_LR,), (OWN_LR, half_as_fast), LR, BOTH, own_lrs=(0.005, 0.015)),
    "an lr that is not used": Case((ONE_CYCLE,), (ONE_CYCLE, half_as_fast), None, BOTH),
    **{f"{name} is new": without_a_state(name, (None, sgd), sgd) for name in SCHEDULERS},
    "new beside AdamW": without_a_state("OneCycle", (None, adamw), adamw),
    "after torch's, by steps": without_a_state("OneCycle", (None, torchs_own("step")), sgd),
    "after torch's, by epochs": without_a_state("OneCycle", (None, torchs_own("epoch")), sgd),
    "the position is given": Case((None, sgd), (GIVEN, sgd), None, position=3),
    "loaded late": Case((ONE_CYCLE, sgd), (ONE_CYCLE, sgd), None, strategy=RestoresLater),
    "new, loaded late": without_a_state("OneCycle", (None, sgd), sgd, strategy=RestoresLater),
}


@pytest.mark.parametrize(("name", "route"), [(name, route) for name, case in CASES.items() for route in case.routes])
def test_a_changed_run_goes_on_where_it_was_and_tells_once_what_has_changed(tmp_path, name, route):
    case = CASES[name]
    path = checkpoint(tmp_path, *routed(route, *case.before), steps=SAVED_AT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {} if case.strategy is None else {"strategy": case.strategy()}
        resumed = fit(tmp_path, *routed(route, *case.now), ckpt_path=path, **options)
    lines = [str(warning.message) for warning in caught]
    lines = [line for line in lines if "resumes at step" in line or "continues from" in line]
    assert len(lines) == (case.told is not None)
    assert case.told is None or re.search(case.told, lines[0])
    steps = range(case.position, case.position + STEPS - SAVED_AT)
    assert lrs(resumed) == expected(case.now[0], steps, case.own_lrs)


@BOTH_ROUTES
def test_changing_the_route_changes_nothing(tmp_path, route):
    second = {"callback": "configure_optimizers", "configure_optimizers": "callback"}[route]
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    resumed = fit(tmp_path, *routed(second, ONE_CYCLE), ckpt_path=path)
    assert resumed.used == fit(tmp_path, ONE_CYCLE, adamw).used[SAVED_AT:]


@BOTH_ROUTES
@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_momentum_that_is_no_longer_scheduled_is_the_optimizers_own_again(tmp_path, route, make):
    # The optimizer's saved state brings a momentum from the middle of the cycle.
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE, make), steps=3)
    now = with_params(ONE_CYCLE, cycle_momentum=False)
    with pytest.warns(UserWarning, match="cycle_momentum: True -> False"):
        resumed = fit(tmp_path, *routed(route, now, make), ckpt_path=path)
    assert {momentum for _, values in resumed.used for _, momentum in values} == {0.9}


def test_without_the_callback_a_missing_state_is_told_before_the_first_step(tmp_path):
    path = checkpoint(tmp_path, None, adamw, steps=SAVED_AT)
    with pytest.warns(UserWarning, match=r"the state of AdamW was loaded, but none for OneCycle, .* from step 0"):
        fit(tmp_path, None, through_module(adamw, ONE_CYCLE), ckpt_path=path)


def test_a_checkpoint_of_a_run_that_has_not_stepped_is_nothing_to_talk_about(tmp_path):
    fit(tmp_path, None, sgd, max_steps=0).trainer.save_checkpoint(tmp_path / "begun.ckpt")
    assert lrs(fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=tmp_path / "begun.ckpt")) == expected(ONE_CYCLE, range(STEPS))


def edited(path: Path, edit: Callable[[Any], Any]) -> Path:
    saved = torch.load(path, weights_only=True)
    edit(saved)
    torch.save(saved, path)
    return path


def test_steps_that_the_gradient_scaler_skipped_are_not_in_the_position(tmp_path):
    # Lightning's global_step counts them; the optimizer's own count does not.
    def skip_two(saved: Any) -> None:
        for state in saved["optimizer_states"][0]["state"].values():
            state["step"] -= 2

    path = edited(checkpoint(tmp_path, None, adamw, steps=SAVED_AT), skip_two)
    with pytest.warns(UserWarning, match=f"continues from step {SAVED_AT - 2}"):
        resumed = fit(tmp_path, ONE_CYCLE, adamw, ckpt_path=path)
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT - 2, STEPS - 2))


def test_a_checkpoint_from_one_fit_is_forgotten_in_the_next(tmp_path):
    path = checkpoint(tmp_path, None, sgd, steps=SAVED_AT)
    callback, module = LRSchedulerCallback(ONE_CYCLE), fit(tmp_path, None, sgd, max_steps=0)
    with pytest.warns(UserWarning, match="continues from step 7"):
        quiet_trainer(tmp_path, callback, max_steps=9).fit(module, StatefulLoader(), ckpt_path=path)
    module.used.clear()
    quiet_trainer(tmp_path, callback, max_steps=3).fit(module, StatefulLoader())
    assert lrs(module) == expected(ONE_CYCLE, range(3))


# Several optimizers ---------------------------------------------------------------------------------------------------


def manual_checkpoint(folder: Any, config: Any = None, **options: Any) -> Any:
    return checkpoint(folder, config, steps=11, module_class=ManualNet, **options)


def test_without_a_state_each_schedule_goes_on_from_its_own_optimizers_count(tmp_path):
    both = {**MANUAL, "configure": lambda module: (half_as_fast(module), two_optimizers(module)[1])}
    path = manual_checkpoint(tmp_path, configure=both["configure"])
    states = [optimizer["state"].values() for optimizer in torch.load(path, weights_only=True)["optimizer_states"]]
    counts = [max(int(state["step"]) for state in of_one) for of_one in states]
    assert counts[0] != counts[1]
    with pytest.warns(UserWarning, match="the schedule continues from step") as caught:
        resumed = fit(tmp_path, [ONE_CYCLE, WARMUP], ckpt_path=path, **both)
    assert sum("the schedule continues" in str(warning.message) for warning in caught) == 2
    assert lrs(resumed, 0)[0] == expected(ONE_CYCLE, range(counts[0], counts[0] + 1))[0]
    assert lrs(resumed, 1)[0] == expected(WARMUP, range(counts[1], counts[1] + 1), (0.03,))[0]


def test_where_the_position_cannot_be_known_it_is_asked_for(tmp_path):
    path, first = manual_checkpoint(tmp_path), {"callback_options": {"optimizer_index": 0}, **MANUAL}
    with pytest.raises(ValueError, match=r"without OneCycle for optimizer 0, .* give it as last_batch_iteration"):
        fit(tmp_path, ONE_CYCLE, ckpt_path=path, **first)
    resumed = fit(tmp_path, with_params(ONE_CYCLE, last_batch_iteration=6), ckpt_path=path, **first)
    assert lrs(resumed, 0)[0] == expected(ONE_CYCLE, range(7, 8), (0.01,))[0]


def test_a_schedule_gets_its_own_state_although_another_one_is_gone_or_stands_before_it(tmp_path):
    # Lightning would give the second optimizer's schedule the first one's state.
    path = manual_checkpoint(tmp_path, [ONE_CYCLE, WARMUP])
    states = torch.load(path, weights_only=True)["lr_schedulers"]
    assert states[0]["last_epoch"] != states[1]["last_epoch"]
    resumed = fit(tmp_path, [None, WARMUP], ckpt_path=path, **MANUAL)
    first = states[1]["last_epoch"]
    assert lrs(resumed, 1) == expected(WARMUP, range(first, first + len(lrs(resumed, 1))), (0.03,))
    pairs = list(enumerate((ONE_CYCLE, WARMUP)))
    in_the_other_order = [LRSchedulerCallback(config, optimizer_index=index) for index, config in pairs[::-1]]
    other = fit(tmp_path, None, None, *in_the_other_order, ckpt_path=path, module_class=ManualNet, max_steps=22)
    assert other.used == fit(tmp_path, [ONE_CYCLE, WARMUP], **MANUAL).used[11:]


# What is refused ------------------------------------------------------------------------------------------------------


def with_a_second_schedule(module: Any) -> Any:
    first, second = two_optimizers(module)
    return [first, second], [torch.optim.lr_scheduler.StepLR(second, 3)]


def one_group(module: Any) -> Any:
    return torch.optim.AdamW(module.parameters())


@pytest.mark.parametrize(
    ("before", "now", "options", "message"),
    [
        ((ONE_CYCLE, sgd), ([ONE_CYCLE, None],), MANUAL, "holds the state of 1 optimizers, but the module has 2"),
        (None, (ONE_CYCLE, sgd), {}, "holds the state of 2 optimizers, but the module has 1"),
        ((ONE_CYCLE, adamw), (ONE_CYCLE, one_group), {}, "holds 2 param groups for optimizer 0, but it has 1"),
        (
            (None, through_module(adamw, ONE_CYCLE)),
            (None, through_module(one_group, ONE_CYCLE)),
            {},
            "parameter groups",
        ),
        (None, (ONE_CYCLE, with_a_second_schedule), {**MANUAL, "callback_options": {"optimizer_index": 0}},
         "state of 0 schedulers besides those of LRSchedulerCallback.* now has 1"),
        ((None, torchs_own("epoch")), (None, through_module(sgd, ONE_CYCLE)), {},
         "OneCycle: the saved state is that of another scheduler .* epochs"),
    ],
    ids=["more optimizers", "fewer optimizers", "fewer groups", "fewer groups of a module", "a second schedule",
         "torch's state"],
)  # fmt: skip
def test_what_lightning_would_pair_wrongly_is_an_error(tmp_path, before, now, options, message):
    path = manual_checkpoint(tmp_path, [ONE_CYCLE, None]) if before is None else checkpoint(tmp_path, *before)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, *now, ckpt_path=path, **options)


@BOTH_ROUTES
@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: [state.pop(key) for key in ("last_epoch", "last_batch_iteration")],
        lambda state: state.update(last_epoch=-5),
        lambda state: state.update(last_epoch="7"),
        lambda state: state.update(last_epoch=None),
    ],
)
def test_a_spoiled_position_is_an_error_and_not_a_restart(tmp_path, route, spoil):
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    edited(path, lambda saved: spoil(saved["lr_schedulers"][0]))
    with pytest.raises((TypeError, ValueError), match="last_epoch"):
        fit(tmp_path, *routed(route, ONE_CYCLE), ckpt_path=path)


# How checkpoints are read ---------------------------------------------------------------------------------------------


@BOTH_ROUTES
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_checkpoint_holds_nothing_that_a_weights_only_load_refuses(tmp_path, name, route):
    path = checkpoint(tmp_path, *routed(route, CONFIGS[name]), steps=SAVED_AT)
    [state] = torch.load(path, weights_only=True)["lr_schedulers"]
    assert state["last_epoch"] == SAVED_AT


@pytest.mark.skipif("weights_only" not in inspect.signature(Trainer.fit).parameters, reason="this Lightning lacks it")
def test_lightning_can_resume_with_weights_only(tmp_path):
    path = checkpoint(tmp_path, ONE_CYCLE, sgd, steps=SAVED_AT)
    module, trainer = Net(sgd), quiet_trainer(tmp_path, LRSchedulerCallback(ONE_CYCLE))
    trainer.fit(module, StatefulLoader(), ckpt_path=path, weights_only=True)
    assert lrs(module) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


def test_a_checkpoint_of_a_test_run_is_not_kept(tmp_path):
    path, callback = checkpoint(tmp_path, ONE_CYCLE, sgd), LRSchedulerCallback(ONE_CYCLE)
    quiet_trainer(tmp_path, callback).test(ValidatedNet(sgd), StatefulLoader(), ckpt_path=path, verbose=False)
    assert not [value for value in vars(callback).values() if isinstance(value, dict) and "state_dict" in value]
