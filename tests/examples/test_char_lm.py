"""The small GPT, run as a user runs it, on one device and on two; its event files read back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import WarmupCosineLR, WarmupDecayLR

pytestmark = pytest.mark.slow  # two trainings, one of them in two processes

ROOT = Path(__file__).parents[2]
BATCHES, CHARACTERS_OF_BATCH, LR = 40, 16 * 64, 0.004
GROUPS = ("lr-AdamW/pg1", "lr-AdamW/pg2")


@dataclass
class Run:
    steps: int
    out: Path
    report: str
    log: str

    def events(self, name: str) -> EventAccumulator:
        return EventAccumulator(str(self.out / "tensorboard" / name)).Reload()


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-processes"])
def run(request, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("char_lm")
    flags = ["--characters", BATCHES * CHARACTERS_OF_BATCH, "--lr", LR, "--out", out]
    flags += ["--devices", request.param, "--accelerator", "cpu"]
    command = [sys.executable, ROOT / "examples" / "char_lm.py", *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return Run(BATCHES // request.param, out, run.stdout, run.stderr)


def schedules(total_steps: int) -> dict[str, WarmupDecayLR | WarmupCosineLR]:
    """What the example should have made of its "auto" values."""
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], LR)
    warmup = total_steps // 10
    return {
        "WarmupDecayLR": WarmupDecayLR(optimizer, total_steps, warmup_max_lr=LR, warmup_num_steps=warmup),
        "WarmupCosineLR": WarmupCosineLR(optimizer, total_steps, warmup_num_steps=warmup),
    }


@pytest.mark.parametrize("name", ["WarmupDecayLR", "WarmupCosineLR"])
def test_both_groups_lr_is_the_schedules_over_the_steps_of_this_run(run, name):
    schedule, events = schedules(run.steps)[name], run.events(name)
    for group, tag in enumerate(GROUPS):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert list(points) == list(range(4, run.steps, 5))  # log_every_n_steps=5
        for step, value in points.items():
            assert value == pytest.approx(schedule.lr_at(step)[group], rel=1e-6)  # event files hold float32


def test_the_run_to_compare_with_has_no_schedule(run):
    assert not set(GROUPS) & set(run.events("fixed").Tags()["scalars"])


def test_the_log_says_what_auto_became(run):
    for name in ("WarmupDecayLR", "WarmupCosineLR"):
        table = run.log.split(f"{name:<16} | as written | in this run\n")
        assert len(table) == 2  # told once, by one process
        assert f"total_num_steps  | auto       | {run.steps}\n" in table[1]
        assert f"warmup_num_steps | auto       | {run.steps // 10}\n" in table[1]


def test_a_line_says_how_each_run_ended(run):
    assert run.report.count("validation loss") == 1
    for name in ("WarmupDecayLR", "WarmupCosineLR", "fixed"):
        (loss,) = run.events(name).Scalars("val_loss")
        assert loss.value < 6  # bits per character; 7 is chance
        [line] = [line for line in run.report.splitlines() if line.startswith(f"{name} ")]
        assert line.startswith(f"{name:<16} {LR:<7g} {loss.value:.3f} ")
        assert f" {run.steps} steps " in line
        assert len(line) <= 80
