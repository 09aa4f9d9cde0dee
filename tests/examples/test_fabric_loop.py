"""The Fabric example, run as a user runs it: interrupted and resumed, it goes through the same learning rates."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_lrsched import RangeTestResult, SchedulerConfig
from tests.kit.modules import Regression

pytestmark = pytest.mark.slow  # trainings in processes of their own

ROOT = Path(__file__).parents[2]
EPOCHS, BATCHES = 4, 42


def run(out: Path, *options: str) -> str:
    command = [sys.executable, ROOT / "examples" / "fabric_loop.py", "--epochs", str(EPOCHS), "--out", out, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("devices", [1, 2])
def test_it_finds_the_learning_rates_and_follows_them_to_the_end(tmp_path, devices):
    said = run(tmp_path, "--devices", str(devices))
    result = RangeTestResult.load(tmp_path / "range_test.json")
    assert result.stop_reason == "diverged"
    steps = EPOCHS * (BATCHES // devices)
    schedule = SchedulerConfig.from_dict(result.one_cycle()).build(
        Regression().configure_optimizers(), total_steps=steps
    )
    lrs = [float(lr) for lr in re.findall(r"lr (\d\.\d+)", said.partition("epoch")[2])]
    assert lrs == pytest.approx(
        [schedule.lr_at(epoch * (BATCHES // devices))[0] for epoch in range(1, EPOCHS + 1)], abs=1e-5
    )
    assert float(re.search(r"Test accuracy ([\d.]+)%", said)[1]) > 50  # 10 by chance


def test_an_interrupted_training_goes_on_where_the_last_epoch_ended(fabric_loop, tmp_path, monkeypatch, capsys):
    from lightning.fabric import Fabric

    save = Fabric.save

    def interrupted(fabric, path, state):
        save(fabric, path, state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Fabric, "save", interrupted)
    monkeypatch.setattr(sys, "argv", ["fabric_loop.py", "--epochs", str(EPOCHS), "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        fabric_loop.main()
    first = capsys.readouterr().out
    said = run(tmp_path, "--resume")
    lines = re.findall(r"epoch +(\d)  loss [\d.]+  lr (\S+)  momentum (\S+)", first + said)
    assert [int(epoch) for epoch, _, _ in lines] == [0, 1, 2, 3]
    fresh = re.findall(r"epoch +(\d)  loss [\d.]+  lr (\S+)  momentum (\S+)", run(tmp_path / "fresh"))
    assert lines == fresh
