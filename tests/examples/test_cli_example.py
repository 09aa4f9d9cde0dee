"""The LightningCLI example: the commands of its README one after the other, in a folder of the user's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import SchedulerConfig

pytestmark = pytest.mark.slow  # a range test and two trainings, each a process of its own

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cli"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
STEPS = 3 * 22
SHORT = ["--trainer.max_epochs=3", "--trainer.enable_progress_bar=false"]


def commands() -> list[list[str]]:
    """Return the arguments of each ``python main.py`` in the README."""
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)).splitlines()
    return [line.split("#")[0].split()[2:] for line in lines if line.startswith("python main.py ")]


def run(folder: Path, arguments: list[str]) -> None:
    """Run a command of the README in ``folder``, shortened, with the example's files where they are."""
    paths = {"config.yaml": str(EXAMPLE / "config.yaml")}
    command = [sys.executable, EXAMPLE / "main.py", *(paths.get(word, word) for word in arguments), *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("jsonargparse", reason="jsonargparse, which LightningCLI needs, is not installed")
    folder = tmp_path_factory.mktemp("user")
    for arguments in commands():
        run(folder, arguments)
    return folder


def test_the_range_test_writes_a_schedule_for_a_training_of_any_length(folder):
    section = yaml.safe_load((folder / "scheduler.yaml").read_text())["scheduler"]
    params = section["params"]
    assert section["type"] == "OneCycle"
    assert 0.001 < params["cycle_min_lr"] < params["cycle_max_lr"] < 1
    lengths = [params[key] for key in ("cycle_first_step_size", "cycle_second_step_size", "decay_step_size")]
    assert lengths == [0.3, 0.6, 0.1]


@pytest.mark.parametrize(("version", "changed"), [(1, {}), (2, {"cycle_max_lr": 0.1})])
def test_the_training_follows_the_file_and_what_the_command_line_changes(folder, version, changed):
    section = yaml.safe_load((folder / "scheduler.yaml").read_text())["scheduler"]
    section["params"].update(changed)
    schedule = SchedulerConfig.of(section).build(
        torch.optim.SGD([torch.zeros(1)], 0.001, momentum=0.9), total_steps=STEPS
    )
    events = EventAccumulator(str(folder / "lightning_logs" / f"version_{version}")).Reload()
    for tag, value_at in (("lr-SGD", schedule.lr_at), ("lr-SGD-momentum", schedule.momentum_at)):
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert list(points) == list(range(4, STEPS, 5))  # log_every_n_steps=5
        for step, value in points.items():
            assert value == pytest.approx(value_at(step)[0], rel=1e-6)  # event files hold float32
    assert events.Scalars("val_accuracy")[-1].value > 0.8


def test_all_that_was_written_is_in_the_users_folder(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["lightning_logs", "scheduler.yaml"]
    own = sorted(path.name for path in EXAMPLE.iterdir() if path.name != "__pycache__")
    assert own == ["README.md", "config.yaml", "main.py"]


def test_the_readme_shows_the_keys_that_are_written(folder):
    [shown] = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    written = yaml.safe_load((folder / "scheduler.yaml").read_text())["scheduler"]["params"]
    assert list(yaml.safe_load(shown)["scheduler"]["params"]) == list(written)
