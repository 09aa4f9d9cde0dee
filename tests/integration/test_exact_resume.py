"""Interrupted and resumed is the same as never interrupted, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig
from tests.kit.phases import phased
from tests.kit.runs import (
    CONFIGS,
    ManualNet,
    Net,
    SaveAtBatches,
    StatefulLoader,
    adam_of_tensors,
    adamw,
    checkpoint,
    fit,
    quiet_trainer,
    sgd,
    through_module,
    two_optimizers,
)
from tests.kit.versions import not_in_lightning

STEPS = 16
STOPS = {
    "before the warmup moves": 1,
    "inside the warmup": 2,
    "at the peak": 4,
    "at the end of an epoch": 5,
    "mid-epoch, in the decay": 7,
    "past the cycle": 9,
    "past the end": 13,
}
OPTIMIZERS = {"float SGD": sgd, "float AdamW": adamw, "tensor Adam": adam_of_tensors}

RunToTheEnd = Callable[..., tuple[Net, Path]]


def run(folder: Path, name: str, route: str, kind: str, *callbacks: Any, ckpt_path: Any = None, **options: Any) -> Net:
    make, config = OPTIMIZERS[kind], CONFIGS[name]
    if route == "callback":
        module, callbacks = Net(make), (LRSchedulerCallback(config), *callbacks)
    else:
        module = Net(through_module(make, config))
    trainer = quiet_trainer(folder, *callbacks, **options)
    trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunToTheEnd:
    """A run that nobody interrupts, and the folder with a checkpoint after each of its batches; made once for each."""

    @cache
    def make(name: str, route: str, kind: str, **options: Any) -> tuple[Net, Path]:
        folder = tmp_path_factory.mktemp("whole")
        return run(folder, name, route, kind, SaveAtBatches(folder), **options), folder

    return make


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("route", ["callback", "configure_optimizers"])
@pytest.mark.parametrize("name", CONFIGS)
def test_lr_momentum_and_weights_go_on_bit_for_bit(whole, tmp_path, name, route, kind, stop):
    uninterrupted, checkpoints = whole(name, route, kind)
    assert len(uninterrupted.used) == STEPS
    resumed = run(tmp_path, name, route, kind, ckpt_path=checkpoints / f"{stop}.ckpt")
    assert resumed.used == uninterrupted.used[stop:]
    assert all(map(torch.equal, resumed.weights(), uninterrupted.weights()))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_uninterrupted_run_is_the_schedule(whole, name):
    for route in ("callback", "configure_optimizers"):
        module, _ = whole(name, route, "float SGD")
        schedule = module.trainer.lr_scheduler_configs[0].scheduler
        assert [[lr for lr, _ in values] for _, values in module.used] == [schedule.lr_at(s) for s in range(STEPS)]
        for step, (_, values) in enumerate(module.used):
            assert schedule.momentum_at(step) in (None, [momentum for _, momentum in values])


@pytest.mark.parametrize("batch", [3, 6, 7, 10, 14])
@pytest.mark.parametrize("route", ["callback", "configure_optimizers"])
@pytest.mark.parametrize("name", ["OneCycle", "WarmupCosineLR"])
def test_a_checkpoint_between_accumulated_batches_keeps_the_position(whole, tmp_path, name, route, batch):
    # Lightning does not save the gradients of half a window: the weights differ, lr and momentum do not.
    options = {"accumulate_grad_batches": 3, "max_steps": 8}
    uninterrupted, checkpoints = whole(name, route, "float AdamW", **options)
    saved = torch.load(checkpoints / f"{batch}.ckpt", weights_only=True)
    finished = saved["global_step"]
    assert saved["lr_schedulers"][0]["last_epoch"] == finished
    resumed = run(tmp_path, name, route, "float AdamW", ckpt_path=checkpoints / f"{batch}.ckpt", **options)
    assert resumed.used == uninterrupted.used[finished:]


def test_resuming_from_a_resumed_run_changes_nothing(whole, tmp_path):
    uninterrupted, checkpoints = whole("OneCycle", "callback", "float AdamW")
    path = checkpoints / "3.ckpt"
    for stop in (4, 9, 12):
        saver = SaveAtBatches(tmp_path / str(stop))
        run(tmp_path, "OneCycle", "callback", "float AdamW", saver, ckpt_path=path, max_steps=stop)
        path = tmp_path / str(stop) / f"{saver.batches}.ckpt"
    last = run(tmp_path, "OneCycle", "callback", "float AdamW", ckpt_path=path)
    assert last.used == uninterrupted.used[12:]
    assert all(map(torch.equal, last.weights(), uninterrupted.weights()))


# Two optimizers under manual optimization -------------------------------------------------------------------------


def wired_by_the_module(first: Any, second: Any) -> Callable[[Any], Any]:
    def configure(module: Any) -> Any:
        optimizers = two_optimizers(module)
        return [
            through_module(lambda _, optimizer=optimizer: optimizer, config)(module)
            for optimizer, config in zip(optimizers, (first, second), strict=True)
        ]

    return configure


def manual_run(folder: Path, route: str, names: tuple[str, str], *callbacks: Any, ckpt_path: Any = None) -> Net:
    configs = [CONFIGS[name] for name in names]
    if route == "callback":
        module, callbacks = ManualNet(), (LRSchedulerCallback(configs), *callbacks)
    else:
        module = ManualNet(wired_by_the_module(*configs))
    trainer = quiet_trainer(folder, *callbacks, max_steps=22)  # Lightning counts the steps of both
    trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
    return module


@not_in_lightning("2.5", "a run that is saved in a hook of a batch goes on with that batch again")
@pytest.mark.parametrize("route", ["callback", "configure_optimizers"])
@pytest.mark.parametrize("names", [("OneCycle", "WarmupDecayLR"), ("WarmupCosineLR", "OneCycle")])
def test_each_of_two_optimizers_goes_on_at_its_own_position(tmp_path, route, names):
    uninterrupted = manual_run(tmp_path, route, names, SaveAtBatches(tmp_path))
    positions = [sum(index == number for index, _ in uninterrupted.used) for number in (0, 1)]
    assert positions[0] != positions[1]
    for batch in (1, 2, 4, 5, 8, 11):
        path = tmp_path / f"{batch}.ckpt"
        finished = torch.load(path, weights_only=True)["global_step"]
        resumed = manual_run(tmp_path, route, names, ckpt_path=path)
        assert resumed.used == uninterrupted.used[finished:]
        assert all(map(torch.equal, resumed.weights(), uninterrupted.weights()))
        assert [c.scheduler.last_epoch for c in resumed.trainer.lr_scheduler_configs] == positions


@pytest.mark.filterwarnings("ignore:.*with hyperparameters that differ")
@pytest.mark.parametrize("steps", [10, 12, 24])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"total_num_steps": "auto", "decay_num_steps": 0}, {"total_num_steps": "auto", "decay_num_steps": 4}),
        ({"total_num_steps": 16, "decay_num_steps": 4}, {"total_num_steps": "auto", "decay_num_steps": 0.2}),
    ],
    ids=["no decay before", "another decay before"],
)
def test_from_a_stable_checkpoint_any_length_is_as_if_it_had_been_planned(tmp_path, before, now, steps):
    common = {"warmup_max_lr": 0.1, "warmup_num_steps": 3}
    sections = [{"type": "WarmupStableDecayLR", "params": {**common, **params}} for params in (before, now)]
    saved = checkpoint(tmp_path, sections[0], sgd, steps=6)
    planned = fit(tmp_path, sections[1], sgd, max_steps=steps)
    resumed = fit(tmp_path, sections[1], sgd, ckpt_path=saved, max_steps=steps)
    assert len(planned.used) == steps
    assert resumed.used == planned.used[6:]
    assert all(map(torch.equal, resumed.weights(), planned.weights()))


@settings(max_examples=8, deadline=None)  # each trains twice
@given(phased(), st.integers(1, STEPS - 1))
def test_preview_training_and_a_resume_of_any_phases_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, params: dict[str, Any], saved_at: int
) -> None:
    folder, config = tmp_path_factory.mktemp("phases"), {"type": "PhasedLR", "params": params}
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.01, 0.03)]
    preview = SchedulerConfig.of(config).build(torch.optim.SGD(groups, momentum=0.9))
    expected = [
        (0, list(zip(preview.lr_at(step), preview.momentum_at(step) or [], strict=True))) for step in range(STEPS)
    ]
    whole = fit(folder, config, sgd, SaveAtBatches(folder), max_steps=STEPS)
    resumed = fit(folder, config, sgd, max_steps=STEPS, ckpt_path=folder / f"{saved_at}.ckpt")
    assert whole.used == expected
    assert resumed.used == expected[saved_at:]
