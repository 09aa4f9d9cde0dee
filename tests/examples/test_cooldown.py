"""The cooldowns, in a tiny setting: branches begin at the trunk's checkpoints and end where the report says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import WarmupStableDecayLR
from tests.kit.schedules import sgd

RECORD = Path(__file__).parents[2] / "examples" / "pictures" / "cooldown.json"

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*with hyperparameters that differ",
    "ignore:Be aware that when using",
    "ignore:You defined a `validation_step`",
)


def lrs(folder: Path) -> dict[int, float]:
    """Return step -> lr of the first group as the logger has it."""
    events = EventAccumulator(str(folder)).Reload().Scalars("lr-AdamW/pg1")
    return {event.step: event.value for event in events}


def test_a_branch_has_the_lr_of_a_training_of_its_length(cooldown: ModuleType, tmp_path: Path, capsys: object) -> None:
    records = cooldown.compare(0, argparse.Namespace(steps=200, out=tmp_path))
    assert [(record["steps"], record["start"]) for record in records] == [(50, 40), (100, 80), (200, 160)]
    assert all(1 < record[way] < 7 for record in records for way in cooldown.WAYS)  # 7 bits are chance
    for record in records:
        length, decay = record["steps"], record["steps"] - record["start"]
        planned = WarmupStableDecayLR(
            sgd(), length, 0.0, cooldown.LR, cooldown.WARMUP, decay_num_steps=decay, decay_type="1-sqrt"
        )
        for way, begin in (("branch", record["start"]), ("alone", 0)):
            logged = lrs(tmp_path / "tensorboard" / f"{way}_{length}_seed0")
            assert len(logged) >= (length - begin) // 5
            assert begin <= min(logged) < begin + 5
            assert logged == {step: pytest.approx(planned.lr_at(step)[0], rel=1e-6) for step in logged}


def test_the_table_has_medians_ranges_and_the_steps_saved(cooldown: ModuleType) -> None:
    losses = [(3.0, 3.1, 3.5), (3.2, 3.0, 3.3), (2.9, 3.3, 3.4)]
    records = [
        {"seed": seed, "steps": 10 * scale, "start": 8 * scale, **dict(zip(cooldown.WAYS, of_seed, strict=True))}
        for seed, of_seed in enumerate(losses)
        for scale in (1, 2, 4)
    ]
    lines = cooldown.table(records).splitlines()
    assert lines[2] == "   10 | 3.000 (2.900 to 3.200) | 3.100 (3.000 to 3.300) | 3.400 (3.300 to 3.500)"
    assert lines[-1] == "steps made for each seed: 46 with branches, 70 alone: 34% saved"
    assert max(map(len, lines)) <= 80


def test_the_picture_is_drawn_from_the_record_in_the_repository(cooldown: ModuleType) -> None:
    records = json.loads(RECORD.read_text("utf-8"))
    assert len({record["seed"] for record in records}) >= 5
    lr_axes, loss_axes = cooldown.draw(records).axes
    assert len(lr_axes.lines) == 3
    assert len(loss_axes.lines) == 2 * len(cooldown.WAYS) == 6
