"""The demo, run as a user runs it, and its event files read back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import ProbeResult, SchedulerConfig
from lightning_lrsched.range_test.probe import STEPS_OF_SHORT_RUN
from lightning_lrsched.range_test.record import one_cycle

ROOT = Path(__file__).parents[2]
EPOCHS, BATCHES = 3, 22


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str, str]:
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, ROOT / "examples" / "digits.py", "--seeds", "1", "--epochs", str(EPOCHS), "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return out, run.stdout, run.stderr


def result_of(out: Path) -> ProbeResult:
    return ProbeResult.from_dict(json.loads((out / "probe.json").read_text("utf-8")))


def test_the_report_has_a_line_for_each_training_and_no_progress_bars(demo):
    out, report, errors = demo
    found = result_of(out).learning_rates()
    # On a busy machine, lines of progress stand between them.
    lines = [line for line in report.splitlines() if not line.startswith("... ")]
    assert max(len(line) for line in lines[:11]) <= 80
    for number, (name, how) in enumerate(
        (
            ("LRSchedulerCallback()", f"1Cycle {found['low']:.2g} .. {found['high']:.2g}"),
            ("Lightning's finder", "lr "),
            ("torch's default", "lr 0.001"),
        )
    ):
        assert re.fullmatch(rf" +0  {re.escape(name)} +{re.escape(how)}.* +\d+\.\d\d % +\d+\.\d s", lines[3 + number])
    assert "\r" not in report + errors
    assert "it/s" not in report + errors


def test_the_last_line_is_a_command_that_works(demo):
    command = demo[1].splitlines()[-1]
    assert command.endswith(f"tensorboard --logdir {demo[0] / 'tensorboard'}")
    subprocess.run([*command.split()[:-2], "--version"], check=True, capture_output=True, timeout=120)


def test_the_pictures_are_there(demo):
    for name in ("loss_vs_lr.png", "schedule.png"):
        picture = (demo[0] / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000


def test_the_event_files_hold_the_schedules_own_values(demo):
    out = demo[0]
    total = EPOCHS * BATCHES
    found = result_of(out).learning_rates()
    config = SchedulerConfig.of(one_cycle(found["low"], found["high"], None, cycle_momentum=True))
    schedule = config.build(torch.optim.SGD([torch.zeros(1)], 0.001, momentum=0.9), total_steps=total)
    events = EventAccumulator(str(out / "tensorboard" / "one_line_seed0")).Reload()
    expected = list(range(4, total, 5))  # log_every_n_steps=5
    for tag, value_at in (("lr-SGD", schedule.lr_at), ("lr-SGD-momentum", schedule.momentum_at)):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert list(points) == expected
        for step, value in points.items():
            assert value == pytest.approx(value_at(step)[0], rel=1e-6)  # event files hold float32


def test_the_event_files_hold_the_probe(demo):
    out = demo[0]
    sizes = {"images": 0, "tensors": 0}
    events = EventAccumulator(str(out / "tensorboard" / "one_line_seed0"), sizes).Reload()
    [text] = events.Tensors("lr_probe/result/text_summary")
    assert text.tensor_proto.string_val[0].decode() == str(result_of(out))
    assert len(events.Images("lr_probe/loss_vs_lr")) == 1


def test_what_was_found_is_the_work_of_a_few_steps(demo):
    result = result_of(demo[0])
    assert result.steps == STEPS_OF_SHORT_RUN
    assert result.forwards < 20
    assert min(result.losses) < result.losses[0]  # the first is that before the update
    assert "the loss of a batch is lowest" in result.because
