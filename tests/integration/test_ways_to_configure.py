"""Each way to bring a configuration, in a process of its own: lr and momentum per batch are lr_at and momentum_at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.schedules.length import Horizon

pytest.importorskip("jsonargparse", reason="jsonargparse, which the command lines need, is not installed")

from lightning_lrsched.cli import LRSchedulerCLI
from tests.kit.train import Plain

ROOT = Path(__file__).parents[2]
STEPS = 20
SECTION = {
    "type": "OneCycle",
    "params": {
        "cycle_min_lr": "auto", "cycle_max_lr": 0.05, "cycle_first_step_size": 0.3, "cycle_second_step_size": "1ep",
        "decay_step_size": 2, "decay_lr_rate": 1.0, "cycle_min_mom": 0.8, "cycle_max_mom": 0.95, "decay_mom_rate": 0.01,
    },
}  # fmt: skip
TRAINER = {
    "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


def expected(section: dict[str, Any]) -> list[list[float]]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9)
    schedule = SchedulerConfig.from_dict(section).build(optimizer, Horizon(STEPS, STEPS // 2))
    return [[schedule.lr_at(step)[0], schedule.momentum_at(step)[0]] for step in range(STEPS)]


def train(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SEEN": str(folder / "seen.json"),
        **environment,
    }
    command = [sys.executable, str(ROOT / "tests" / "kit" / "train.py"), *arguments]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def seen(folder: Path) -> list[list[float]]:
    return json.loads((folder / "seen.json").read_text())


OPTIMIZER = {"type": "SGD", "params": {"lr": "auto", "momentum": "9e-1"}}
FILES = {
    "dict.json": json.dumps(SECTION),
    "file.json": f'{{ // as DeepSpeed reads it\n "train_batch_size": "auto",\n "scheduler": {json.dumps(SECTION)},\n}}',
    "file.yaml": yaml.safe_dump({"deepspeed": {"zero_optimization": {"stage": 2}, "scheduler": SECTION}}),
    "optimizer.json": json.dumps({"optimizer": OPTIMIZER, "scheduler": SECTION}),
    "flags.txt": "--lr_schedule OneCycle " + " ".join(f"--{key} {value}" for key, value in SECTION["params"].items()),
}


@pytest.fixture(scope="module")
def without_a_command_line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    train(folder, str(folder))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_dict_a_file_with_or_without_an_optimizer_and_flags(without_a_command_line, name):
    assert json.loads((without_a_command_line / f"{name}.seen").read_text()) == expected(SECTION)


def test_plain_lightning_cli(tmp_path):
    callback = {"class_path": "lightning_lrsched.LRSchedulerCallback", "init_args": {"scheduler": SECTION}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {**TRAINER, "callbacks": [callback]}}))
    override = "--trainer.callbacks.scheduler.params.cycle_max_lr=0.5"
    train(tmp_path, "plain", "fit", "--config", "config.yaml", override)
    assert seen(tmp_path) == expected({**SECTION, "params": {**SECTION["params"], "cycle_max_lr": 0.5}})


def test_our_cli_and_what_it_saves(tmp_path, monkeypatch):
    config = {"trainer": {**TRAINER, "logger": True, "default_root_dir": "."}, "scheduler": SECTION}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    result = train(tmp_path, "ours", "fit", "-c", "config.yaml", "--scheduler.params.cycle_max_mom=0.9")
    wanted = expected({**SECTION, "params": {**SECTION["params"], "cycle_max_mom": 0.9}})
    assert seen(tmp_path) == wanted
    assert "cycle_second_step_size | 1ep        | 10" in result.stderr
    saved = next(tmp_path.glob("lightning_logs/*/config.yaml"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("SEEN", str(tmp_path / "seen_again.json"))
    LRSchedulerCLI(Plain, args=["fit", "-c", str(saved), "--trainer.logger=false"], save_config_callback=None)
    assert json.loads((tmp_path / "seen_again.json").read_text()) == wanted


def test_the_range_test_writes_what_fit_takes(tmp_path, monkeypatch):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"trainer": TRAINER, "scheduler": SECTION}))
    result = train(tmp_path, "ours", "lr_range_test", "-c", "train.yaml", "--num_steps=150", "--max_lr=30")
    printed = result.stderr + result.stdout
    assert "for OneCycle, as long as its run; wrote scheduler.yaml. To train with it, add --config" in printed
    assert re.search(r"learning rates [\d.e-]+ to [\d.e-]+ for", printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scheduler.yaml", "seen.json", "train.yaml"]
    section = yaml.safe_load((tmp_path / "scheduler.yaml").read_text())["scheduler"]
    assert section["type"] == "OneCycle"
    assert section["params"]["cycle_first_step_size"] == 0.3
    flags = ["--seed_everything=0", *(f"--trainer.{key}={str(value).lower()}" for key, value in TRAINER.items())]
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    LRSchedulerCLI(Plain, args=["fit", "--config", str(tmp_path / "scheduler.yaml"), *flags], save_config_callback=None)
    assert seen(tmp_path) == expected(section)
