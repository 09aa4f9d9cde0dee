"""The GAN, run as a user runs it: each optimizer has its own schedule, to the end, and the samples are seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import WarmupCosineLR, WarmupDecayLR

pytestmark = pytest.mark.slow  # two trainings in a process of their own

ROOT = Path(__file__).parents[2]
EPOCHS, BATCHES = 20, 28
STEPS = EPOCHS * BATCHES


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("gan")
    command = [sys.executable, ROOT / "examples" / "gan.py", "--epochs", str(EPOCHS), "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return out, run.stdout


@pytest.fixture(scope="module")
def events(run) -> EventAccumulator:
    return EventAccumulator(str(run[0] / "tensorboard" / "gan"), {"scalars": 0, "images": 0}).Reload()


def test_each_optimizer_follows_its_own_schedule_to_the_end(events):
    def adam(lr: float) -> torch.optim.Adam:
        return torch.optim.Adam([torch.zeros(1)], lr)

    generator = WarmupCosineLR(adam(3e-3), STEPS, warmup_num_steps=STEPS // 10, cos_min_ratio=0.0, warmup_type="linear")
    discriminator = WarmupDecayLR(
        adam(6e-3), STEPS, warmup_max_lr=6e-3, warmup_num_steps=round(STEPS / 100), warmup_type="linear"
    )
    for tag, schedule in (("lr-Adam/generator", generator), ("lr-Adam-1/discriminator", discriminator)):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert list(points) == list(range(9, STEPS, 10))  # log_every_n_steps=10; the last is the run's last step
        for step, value in points.items():
            assert value == pytest.approx(schedule.lr_at(step)[0], rel=1e-6)  # event files hold float32


def test_the_samples_of_every_tenth_epoch_are_logged_at_their_step_and_saved_at_the_end(run, events):
    assert [event.step for event in events.Images("samples")] == [STEPS // 2, STEPS]
    assert (run[0] / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_samples_are_digits_and_not_all_alike(run):
    recognised, different = (float(re.search(pattern, run[1])[1]) for pattern in (r"([\d.]+)% of", r"(\d+)% as much"))
    assert recognised > 50  # 10 by chance
    assert different > 20
