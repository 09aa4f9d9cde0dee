"""Resuming with something else than was saved: told, and nothing silently wrong."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_lrsched import LRSchedulerCallback, OneCycle, SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.paths import flatten
from tests.kit.runs import (
    CONFIGS,
    ONE_CYCLE,
    WARMUP,
    ManualNet,
    RestoresLater,
    StatefulLoader,
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
OTHER = {
    "LRRangeTest": {"lr_range_test_min_lr": 0.7},
    "OneCycle": {"cycle_max_lr": 2.0},
    "WarmupLR": {"warmup_max_lr": 0.7},
    "WarmupDecayLR": {"warmup_max_lr": 0.7},
    "WarmupCosineLR": {"total_num_steps": 20},
    "WarmupStableDecayLR": {"decay_num_steps": 5},
    "PhasedLR": {"phases": [{"steps": 20, "lr": 2.0}, *CONFIGS["PhasedLR"]["params"]["phases"][1:]]},
}
BOTH_ROUTES = pytest.mark.parametrize("route", ["callback", "configure_optimizers"])


def routed(route: str, config: Any, make: Any = adamw) -> tuple[Any, Any]:
    """(configuration for the callback, configure_optimizers of the module)"""
    return (config, make) if route == "callback" else (None, through_module(make, config))


def lrs(module: Any, index: int = 0) -> list[list[float]]:
    return [[lr for lr, _ in values] for number, values in module.used if number == index]


def messages(caught: Any, part: str) -> list[str]:
    return [str(warning.message) for warning in caught if part in str(warning.message)]


def expected(config: Any, steps: range, own_lrs: tuple[float, ...] = (0.01, 0.03)) -> list[list[float]]:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in own_lrs], momentum=0.9)
    schedule = SchedulerConfig.of(config).build(optimizer)
    return [schedule.lr_at(step) for step in steps]


# Another schedule ---------------------------------------------------------------------------------------------------


@BOTH_ROUTES
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_changed_hyperparameter_is_in_force_at_once_and_told_once(tmp_path, name, route):
    path = checkpoint(tmp_path, *routed(route, CONFIGS[name]), steps=SAVED_AT)
    changed = {"type": name, "params": {**CONFIGS[name]["params"], **OTHER[name]}}
    before, after = flatten(CONFIGS[name]["params"]), flatten(changed["params"])
    changes = [f"{key}: {old!r} -> {after.get(key)!r}" for key, old in before.items() if old != after.get(key)]
    with pytest.warns(UserWarning, match="resumes at step") as caught:
        resumed = fit(tmp_path, *routed(route, changed), ckpt_path=path)
    [message] = messages(caught, "resumes at step")
    assert f"{name} resumes at step {SAVED_AT} with hyperparameters that differ" in message
    assert len(changes) >= 1
    assert message.endswith(f": {'; '.join(changes)}")
    assert lrs(resumed) == expected(changed, range(SAVED_AT, STEPS))


@BOTH_ROUTES
def test_another_type_of_schedule_goes_on_from_the_same_step(tmp_path, route):
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    with pytest.warns(UserWarning, match=r"WarmupLR resumes at step 7 .*: type: 'OneCycle' -> 'WarmupLR'$"):
        resumed = fit(tmp_path, *routed(route, WARMUP), ckpt_path=path)
    assert lrs(resumed) == expected(WARMUP, range(SAVED_AT, STEPS))


@BOTH_ROUTES
@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_momentum_that_is_no_longer_scheduled_is_the_optimizers_own_again(tmp_path, route, make):
    # The optimizer's saved state brings a momentum from the middle of the cycle.
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE, make), steps=3)
    changed = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "cycle_momentum": False}}
    with pytest.warns(UserWarning, match="cycle_momentum: True -> False"):
        resumed = fit(tmp_path, *routed(route, changed, make), ckpt_path=path)
    assert {momentum for _, values in resumed.used for _, momentum in values} == {0.9}


def half_as_fast(module: Any) -> torch.optim.Optimizer:
    slower = [{**group, "lr": group["lr"] / 2} for group in groups(module)]
    return torch.optim.AdamW(slower)


@BOTH_ROUTES
@pytest.mark.parametrize("config", [CONFIGS["WarmupCosineLR"], {"type": "WarmupLR", "params": {
    "warmup_max_lr": None, "warmup_num_steps": 4}}], ids=lambda config: config["type"])  # fmt: skip
def test_another_lr_of_the_optimizer_is_in_force_although_the_checkpoint_brings_the_old_one(tmp_path, route, config):
    path = checkpoint(tmp_path, *routed(route, config), steps=SAVED_AT)
    with pytest.warns(UserWarning, match=r"the optimizer's lr: \[0\.01, 0\.03\] -> \[0\.005, 0\.015\]$"):
        resumed = fit(tmp_path, *routed(route, config, half_as_fast), ckpt_path=path)
    assert lrs(resumed) == expected(config, range(SAVED_AT, STEPS), (0.005, 0.015))


@BOTH_ROUTES
def test_another_lr_of_the_optimizer_is_no_news_where_the_schedule_does_not_use_it(tmp_path, route):
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    resumed = fit(tmp_path, *routed(route, ONE_CYCLE, half_as_fast), ckpt_path=path)  # in silence
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


@pytest.mark.parametrize("first", ["callback", "configure_optimizers"])
def test_changing_the_route_changes_nothing(tmp_path, first):
    second = {"callback": "configure_optimizers", "configure_optimizers": "callback"}[first]
    path = checkpoint(tmp_path, *routed(first, ONE_CYCLE), steps=SAVED_AT)
    resumed = fit(tmp_path, *routed(second, ONE_CYCLE), ckpt_path=path)
    assert resumed.used == fit(tmp_path, ONE_CYCLE, adamw).used[SAVED_AT:]


# A checkpoint without our state -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_checkpoint_from_before_the_callback_continues_from_its_global_step_and_says_so(tmp_path, name, make):
    path = checkpoint(tmp_path, None, make, steps=SAVED_AT)
    with pytest.warns(UserWarning, match="LRSchedulerCallback") as caught:
        resumed = fit(tmp_path, CONFIGS[name], make, ckpt_path=path)
    [message] = messages(caught, "LRSchedulerCallback")
    assert f"saved without {name} for optimizer 0; the schedule continues from step {SAVED_AT}" in message
    assert lrs(resumed) == expected(CONFIGS[name], range(SAVED_AT, STEPS))


def with_torchs(make: Any, interval: str) -> Any:
    def configure(module: Any) -> dict[str, Any]:
        optimizer = make(module)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    return configure


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_state_of_a_scheduler_of_torch_is_not_mistaken_for_ours(tmp_path, interval):
    path = checkpoint(tmp_path, None, with_torchs(sgd, interval), steps=SAVED_AT)
    with pytest.warns(UserWarning, match=f"saved without OneCycle for optimizer 0; .* from step {SAVED_AT}"):
        resumed = fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=path)
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


def test_without_the_callback_the_state_of_a_scheduler_of_torch_is_refused(tmp_path):
    path = checkpoint(tmp_path, None, with_torchs(sgd, "epoch"), steps=SAVED_AT)
    with pytest.raises(ValueError, match=r"OneCycle: the saved state is that of another scheduler .* epochs"):
        fit(tmp_path, None, through_module(sgd, ONE_CYCLE), ckpt_path=path)


def test_without_the_callback_a_missing_state_is_told_before_the_first_step(tmp_path):
    path = checkpoint(tmp_path, None, adamw, steps=SAVED_AT)
    with pytest.warns(UserWarning, match=r"the state of AdamW was loaded, but none for OneCycle, .* from step 0"):
        fit(tmp_path, None, through_module(adamw, ONE_CYCLE), ckpt_path=path)


def test_a_position_that_the_configuration_gives_holds_where_the_checkpoint_tells_none(tmp_path):
    path = checkpoint(tmp_path, None, sgd, steps=SAVED_AT)
    told = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "last_batch_iteration": 2}}
    resumed = fit(tmp_path, told, sgd, ckpt_path=path)  # in silence
    assert lrs(resumed) == expected(ONE_CYCLE, range(3, 3 + STEPS - SAVED_AT))


def test_a_checkpoint_of_a_run_that_has_not_stepped_is_nothing_to_talk_about(tmp_path):
    module = fit(tmp_path, None, sgd, max_steps=0)
    module.trainer.save_checkpoint(tmp_path / "begun.ckpt")
    assert lrs(fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=tmp_path / "begun.ckpt")) == expected(ONE_CYCLE, range(STEPS))


def test_steps_that_the_gradient_scaler_skipped_are_not_in_the_position(tmp_path):
    # Lightning's global_step counts them; the optimizer's own count does not.
    path = checkpoint(tmp_path, None, adamw, steps=SAVED_AT)
    saved = torch.load(path, weights_only=True)
    for state in saved["optimizer_states"][0]["state"].values():
        state["step"] -= 2
    torch.save(saved, path)
    with pytest.warns(UserWarning, match=f"continues from step {SAVED_AT - 2}"):
        resumed = fit(tmp_path, ONE_CYCLE, adamw, ckpt_path=path)
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT - 2, STEPS - 2))


# Several optimizers -------------------------------------------------------------------------------------------------

MANUAL = {"module_class": ManualNet, "configure": None, "max_steps": 22}


def manual_checkpoint(folder: Any, config: Any = None, **options: Any) -> Any:
    return checkpoint(folder, config, steps=11, module_class=ManualNet, **options)


def test_without_a_state_each_schedule_goes_on_from_its_own_optimizers_count(tmp_path):
    path = manual_checkpoint(tmp_path, configure=lambda m: (half_as_fast(m), two_optimizers(m)[1]))
    counts = [
        max(int(state["step"]) for state in optimizer["state"].values())
        for optimizer in torch.load(path, weights_only=True)["optimizer_states"]
    ]
    assert counts[0] != counts[1]
    config = {"callback_options": {}, "module_class": ManualNet, "max_steps": 22}
    with pytest.warns(UserWarning, match="the schedule continues from step") as caught:
        resumed = fit(tmp_path, [ONE_CYCLE, WARMUP], lambda m: (half_as_fast(m), two_optimizers(m)[1]), ckpt_path=path,
                      **config)  # fmt: skip
    assert len(messages(caught, "the schedule continues")) == 2
    assert lrs(resumed, 0)[0] == expected(ONE_CYCLE, range(counts[0], counts[0] + 1))[0]
    assert lrs(resumed, 1)[0] == expected(WARMUP, range(counts[1], counts[1] + 1), (0.03,))[0]


def test_where_the_position_cannot_be_known_it_is_asked_for(tmp_path):
    path = manual_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"without OneCycle for optimizer 0, .* give it as last_batch_iteration"):
        fit(tmp_path, ckpt_path=path, config=ONE_CYCLE, callback_options={"optimizer_index": 0}, **MANUAL)
    told = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "last_batch_iteration": 6}}
    resumed = fit(tmp_path, ckpt_path=path, config=told, callback_options={"optimizer_index": 0}, **MANUAL)
    assert lrs(resumed, 0)[0] == expected(ONE_CYCLE, range(7, 8), (0.01,))[0]


def test_a_schedule_gets_its_own_state_although_another_one_is_gone(tmp_path):
    # Lightning would give the second optimizer's schedule the first one's state.
    path = manual_checkpoint(tmp_path, [ONE_CYCLE, WARMUP])
    states = torch.load(path, weights_only=True)["lr_schedulers"]
    assert states[0]["last_epoch"] != states[1]["last_epoch"]
    resumed = fit(tmp_path, ckpt_path=path, config=[None, WARMUP], **MANUAL)
    first = states[1]["last_epoch"]
    assert lrs(resumed, 1) == expected(WARMUP, range(first, first + len(lrs(resumed, 1))), (0.03,))


def test_two_callbacks_in_the_other_order_get_their_own_states(tmp_path):
    def callbacks() -> list[Any]:
        return [LRSchedulerCallback(config, optimizer_index=index) for index, config in enumerate((ONE_CYCLE, WARMUP))]

    def train(path: Any = None, *, reverse: bool = False, steps: int = 22) -> Any:
        module = ManualNet()
        order = callbacks()[::-1] if reverse else callbacks()
        trainer = quiet_trainer(tmp_path, *order, max_steps=steps)
        trainer.fit(module, StatefulLoader(), ckpt_path=path)
        return module

    train(steps=11).trainer.save_checkpoint(tmp_path / "both.ckpt")
    assert train(tmp_path / "both.ckpt", reverse=True).used == train().used[11:]


# Other optimizers or groups -----------------------------------------------------------------------------------------


def test_another_number_of_optimizers_is_an_error(tmp_path):
    path = checkpoint(tmp_path, ONE_CYCLE, sgd)
    with pytest.raises(ValueError, match="holds the state of 1 optimizers, but the module has 2"):
        fit(tmp_path, ckpt_path=path, config=[ONE_CYCLE, None], **MANUAL)
    path = manual_checkpoint(tmp_path, [ONE_CYCLE, None])
    with pytest.raises(ValueError, match="holds the state of 2 optimizers, but the module has 1"):
        fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=path)


@BOTH_ROUTES
def test_another_number_of_param_groups_is_an_error(tmp_path, route):
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    message = "holds 2 param groups for optimizer 0, but it has 1" if route == "callback" else "parameter groups"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, *routed(route, ONE_CYCLE, lambda m: torch.optim.AdamW(m.parameters())), ckpt_path=path)


def test_another_number_of_the_modules_own_schedulers_is_an_error(tmp_path):
    def with_schedule(module: Any) -> Any:
        first, second = two_optimizers(module)
        return [first, second], [torch.optim.lr_scheduler.StepLR(second, 3)]

    path = manual_checkpoint(tmp_path, [ONE_CYCLE, None])
    options = {"module_class": ManualNet, "callback_options": {"optimizer_index": 0}}
    with pytest.raises(ValueError, match=r"state of 0 schedulers besides those of LRSchedulerCallback.* now has 1"):
        fit(tmp_path, ONE_CYCLE, with_schedule, ckpt_path=path, **options)


# How checkpoints are read -------------------------------------------------------------------------------------------


@BOTH_ROUTES
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_checkpoint_holds_nothing_that_a_weights_only_load_refuses(tmp_path, name, route):
    path = checkpoint(tmp_path, *routed(route, CONFIGS[name]), steps=SAVED_AT)
    [state] = torch.load(path, weights_only=True)["lr_schedulers"]
    assert state["last_epoch"] == SAVED_AT


@pytest.mark.skipif("weights_only" not in inspect.signature(Trainer.fit).parameters, reason="this Lightning lacks it")
def test_lightning_can_resume_with_weights_only(tmp_path):
    path = checkpoint(tmp_path, ONE_CYCLE, sgd, steps=SAVED_AT)
    module = fit(tmp_path, ONE_CYCLE, sgd, max_steps=0)
    trainer = quiet_trainer(tmp_path, LRSchedulerCallback(ONE_CYCLE))
    trainer.fit(module, StatefulLoader(), ckpt_path=path, weights_only=True)
    assert lrs(module) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


def test_a_strategy_that_loads_after_setup_is_resumed_alike(tmp_path):
    with_state, without = checkpoint(tmp_path, ONE_CYCLE, sgd, steps=SAVED_AT), tmp_path / "without.ckpt"
    checkpoint(tmp_path, None, sgd, steps=SAVED_AT).rename(without)
    checkpoint(tmp_path, ONE_CYCLE, sgd, steps=SAVED_AT)
    resumed = fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=with_state, strategy=RestoresLater())
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))
    with pytest.warns(UserWarning, match=f"continues from step {SAVED_AT}"):
        resumed = fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=without, strategy=RestoresLater())
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


def test_a_checkpoint_from_one_fit_is_forgotten_in_the_next(tmp_path):
    path = checkpoint(tmp_path, None, sgd, steps=SAVED_AT)
    callback = LRSchedulerCallback(ONE_CYCLE)
    module = fit(tmp_path, None, sgd, max_steps=0)
    with pytest.warns(UserWarning, match="continues from step 7"):
        quiet_trainer(tmp_path, callback, max_steps=9).fit(module, StatefulLoader(), ckpt_path=path)
    module.used.clear()
    quiet_trainer(tmp_path, callback, max_steps=3).fit(module, StatefulLoader())
    assert lrs(module) == expected(ONE_CYCLE, range(3))


# Schedulers of torch's own, by name ---------------------------------------------------------------------------------

STEP_LR = {"type": "StepLR", "params": {"step_size": 3}}


def test_a_scheduler_of_torch_goes_on_from_its_own_state(tmp_path):
    path = checkpoint(tmp_path, STEP_LR, sgd, steps=SAVED_AT)
    assert fit(tmp_path, STEP_LR, sgd, ckpt_path=path).used == fit(tmp_path, STEP_LR, sgd).used[SAVED_AT:]


@pytest.mark.parametrize("before", [None, ONE_CYCLE], ids=["no schedule", "one of ours"])
def test_a_scheduler_of_torch_cannot_begin_in_the_middle_and_says_so(tmp_path, before):
    path = checkpoint(tmp_path, before, sgd, steps=SAVED_AT)
    with pytest.raises(ValueError, match=r"holds no state for StepLR of optimizer 0: .* cannot begin in the middle"):
        fit(tmp_path, STEP_LR, sgd, ckpt_path=path)


def test_one_of_ours_goes_on_where_a_scheduler_of_torch_that_the_callback_made_was(tmp_path):
    path = checkpoint(tmp_path, STEP_LR, sgd, steps=SAVED_AT)
    with pytest.warns(UserWarning, match=f"saved without OneCycle .* from step {SAVED_AT}"):
        resumed = fit(tmp_path, ONE_CYCLE, sgd, ckpt_path=path)
    assert lrs(resumed) == expected(ONE_CYCLE, range(SAVED_AT, STEPS))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: [state.pop(key) for key in ("last_epoch", "last_batch_iteration")],
        lambda state: state.update(last_epoch=-5),
        lambda state: state.update(last_epoch="7"),
        lambda state: state.update(last_epoch=None),
    ],
)
@BOTH_ROUTES
def test_a_spoiled_position_is_an_error_and_not_a_restart(tmp_path, route, spoil):
    path = checkpoint(tmp_path, *routed(route, ONE_CYCLE), steps=SAVED_AT)
    saved = torch.load(path, weights_only=True)
    spoil(saved["lr_schedulers"][0])
    torch.save(saved, path)
    with pytest.raises((TypeError, ValueError), match="last_epoch"):
        fit(tmp_path, *routed(route, ONE_CYCLE), ckpt_path=path)


def test_a_schedule_of_a_plain_loop_and_its_optimizer_load_each_other_s_checkpoints(tmp_path):
    """What a plain torch loop saved, too, is read: state_dict of optimizer and schedule."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    schedule = OneCycle(optimizer, **ONE_CYCLE["params"])
    for _ in range(SAVED_AT):
        parameter.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "loop.pt")
    saved = torch.load(tmp_path / "loop.pt", weights_only=True)
    again = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    resumed = OneCycle(again, **ONE_CYCLE["params"])
    again.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == schedule.lr_at(SAVED_AT)[0]
