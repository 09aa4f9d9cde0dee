"""Other people's packages, each trained with its own schedule, with one line, and with a schedule from a config."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, seed_everything

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.third_party.packages import PACKAGES, Package

pytestmark = [pytest.mark.third_party, pytest.mark.filterwarnings("default")]

DECAY = {
    "type": "WarmupDecayLR",
    "params": {"warmup_max_lr": "auto", "warmup_num_steps": 0.1, "total_num_steps": "auto"},
}


class Watch(Callback):
    """Notes, for every step of the training itself, its lr and loss."""

    def __init__(self) -> None:
        self.lrs: list[list[list[float]]] = []
        self.losses: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.lrs, self.losses = [], []  # a probe or test came before

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        groups = [[float(group["lr"]) for group in each.param_groups] for each in trainer.optimizers]
        self.lrs.append(groups)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(float(loss.detach()))


def train(package: Package, folder: Path, *callbacks: Any) -> tuple[float, Any, Watch]:
    """Return the metric, our callback among those that the Trainer really had, and what was noted."""
    seed_everything(1, verbose=False)
    trainer = package.train([*callbacks, Watch()], folder)
    given: Sequence[Any] = trainer.callbacks
    watch = next(each for each in given if isinstance(each, Watch))
    ours = next((each for each in given if isinstance(each, (LRSchedulerCallback, LRRangeTestCallback))), None)
    last = watch.losses[-10:]
    if package.metric in trainer.callback_metrics:
        return float(trainer.callback_metrics[package.metric]), ours, watch
    return sum(last) / len(last) if last else math.nan, ours, watch


@pytest.fixture(params=PACKAGES)
def case(request: pytest.FixtureRequest) -> tuple[str, Package]:
    name: str = request.param
    if not PACKAGES[name].is_installed:
        pytest.skip(f"{PACKAGES[name].name} is not installed")
    return name, PACKAGES[name]


def note(found: Any, case: Any, **values: Any) -> None:
    name, package = case
    found.setdefault(name, {"version": package.version}).update(values)


def follows(ours: Any, watch: Watch) -> None:
    """Each step of the training has had the lr of the schedule."""
    [schedule] = ours.schedulers
    assert schedule.last_epoch == len(watch.lrs) > 0
    for step, (groups, *_) in enumerate(watch.lrs):
        assert groups == pytest.approx(schedule.lr_at(step)[: len(groups)])


def test_its_own_training(case, found, tmp_path):
    metric, ours, watch = train(case[1], tmp_path)
    assert ours is None
    note(found, case, own=metric, steps=len(watch.lrs))


def test_one_line(case, found, tmp_path):
    package = case[1]
    if package.has_scheduler:
        with pytest.raises(ValueError, match=r"take_over=True") as caught:
            train(package, tmp_path, LRSchedulerCallback())
        note(found, case, refused=str(caught.value))
    callback = LRSchedulerCallback(take_over=package.has_scheduler)
    metric, ours, watch = train(package, tmp_path, callback)
    note(found, case, one_line=metric)
    follows(ours, watch)
    assert math.isfinite(metric)


def test_a_schedule_from_a_config(case, found, tmp_path):
    package = case[1]
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(DECAY))
    metric, ours, watch = train(package, tmp_path, LRSchedulerCallback(path, take_over=package.has_scheduler))
    note(found, case, config=metric)
    follows(ours, watch)


def test_a_range_test_alone(case, found, tmp_path):
    package = case[1]
    _, ours, watch = train(package, tmp_path, LRRangeTestCallback(num_steps=30, max_lr=1.0))
    assert watch.losses == []
    note(found, case, suggestion=ours.result.suggestion())
