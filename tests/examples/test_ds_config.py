"""The example with a DeepSpeed configuration, run as a user runs it: what "auto" became, and the curve in the logs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import WarmupDecayLR

pytestmark = pytest.mark.slow  # a training in a process of its own

ROOT = Path(__file__).parents[2]
EPOCHS = 3
STEPS = EPOCHS * 22  # 43 batches in an epoch, two to a step; the last one is a step of its own


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("ds_config")
    command = [sys.executable, ROOT / "examples" / "ds_config.py", "--epochs", str(EPOCHS), "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return out, run


def test_the_log_tells_what_auto_became(run):
    told = dict(re.findall(r"^(\w+) +\| auto +\| (\S+)", run[1].stderr, re.MULTILINE))
    lengths = {"warmup_num_steps": "7", "total_num_steps": str(STEPS)}
    assert told == {"lr": "0.003", "weight_decay": "0.01", **lengths, "warmup_min_lr": "0.0", "warmup_max_lr": "0.003"}


def test_the_event_files_hold_the_curve_that_the_configuration_means(run):
    optimizer = torch.optim.AdamW([torch.zeros(1)], 0.003)
    schedule = WarmupDecayLR(optimizer, STEPS, warmup_max_lr=0.003, warmup_num_steps=7, warmup_type="linear")
    events = EventAccumulator(str(run[0] / "digits_transformer")).Reload()
    points = events.Scalars("lr-AdamW")
    assert {event.step for event in points} == set(range(4, STEPS, 5))  # log_every_n_steps=5
    for event in points:
        assert event.value == pytest.approx(schedule.lr_at(event.step)[0], rel=1e-6)  # event files hold float32
    assert [event.value for event in events.Scalars("lr-AdamW-momentum")] == pytest.approx([0.9] * len(points))


def test_the_report_has_the_curve_and_the_accuracy(run):
    report = run[1].stdout
    assert re.search(rf"^ +{STEPS // 2} +0\.\d+$", report, re.MULTILINE)
    accuracy = float(re.search(r"Test accuracy ([\d.]+)%", report)[1])
    assert accuracy > 50  # 10 by chance
