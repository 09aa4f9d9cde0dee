"""The console command, in a real process where it matters: its speed, its exit status, its output."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_lrsched import RangeTestResult, SchedulerConfig
from lightning_lrsched.__main__ import main

ROOT = Path(__file__).parents[1]
ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 1.0, "cycle_first_step_size": 40, "decay_step_size": 10},
}
AUTO = {
    "train_batch_size": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "2e-4"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": "auto", "warmup_num_steps": "1ep", "warmup_max_lr": "auto"},
    },
}


@pytest.fixture
def write(tmp_path):
    def write_file(content: object, name: str = "config.json") -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write_file


def test_the_command_answers_quickly_and_without_lightning(write):
    script = (
        "import sys; from lightning_lrsched.__main__ import main; status = main(sys.argv[1:]);"
        " print([n for n in ('lightning', 'pytorch_lightning', 'torch._dynamo') if n in sys.modules]); sys.exit(status)"
    )
    command = [sys.executable, "-c", script, "preview", write(ONE_CYCLE)]
    start = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - start
    assert result.stdout.splitlines()[-1] == "[]"
    assert elapsed < 10, "3 s are promised; a machine that is busy with other tests may need more"


def test_python_m_runs_it(write):
    command = [sys.executable, "-m", "lightning_lrsched", "check", write(AUTO), write({"a": 1}, "bad.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    good, bad = result.stdout.splitlines()
    assert good.endswith("config.json: ok: scheduler WarmupDecayLR (total_num_steps, warmup_num_steps, warmup_max_lr:"
                         " when training starts), optimizer AdamW")  # fmt: skip
    assert bad.endswith("bad.json: scheduler is missing; the configuration has the keys 'a'")
    assert result.stderr == ""


def test_preview_shows_lr_and_momentum_of_each_group(write, capsys):
    assert main(["preview", write(ONE_CYCLE), "--base-lr", "0.1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "OneCycle: 100 optimizer steps"
    assert out[1].split() == ["step", "lr/pg1", "lr/pg2", "momentum/pg1", "momentum/pg2"]
    rows = {int(line.split()[0]): [float(cell) for cell in line.split()[1:]] for line in out[2:]}
    assert rows[40] == pytest.approx([1.0, 1.0, 0.8, 0.8])
    assert set(range(6)) <= set(rows)


def test_csv_has_every_step_and_every_digit(write, capsys):
    assert main(["preview", write(AUTO), "--csv", "--steps", "50", "--steps-per-epoch", "10"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    params = {"total_num_steps": 50, "warmup_num_steps": 10, "warmup_max_lr": 2e-4}
    expected = SchedulerConfig("WarmupDecayLR", params).build(torch.optim.SGD([torch.zeros(1)], lr=2e-4))
    assert [(int(row["step"]), float(row["lr"])) for row in rows] == [(s, expected.lr_at(s)[0]) for s in range(51)]


def test_a_scheduler_of_torch_is_shown_too(write, capsys):
    section = {"type": "CosineAnnealingLR", "params": {"T_max": 40}}
    assert main(["preview", write(section), "--base-lr", "0.5", "--csv", "--steps", "40"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(rows[0]["lr"]) == 0.5
    assert float(rows[20]["lr"]) == pytest.approx(0.25)
    assert float(rows[40]["lr"]) == pytest.approx(0, abs=1e-9)


def test_a_picture_is_written(write, tmp_path, capsys):
    assert main(["preview", write(ONE_CYCLE), "--plot", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(write, capsys, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["preview", write(ONE_CYCLE), "--plot", "x.png"]) == 2
    assert "pip install 'lightning-lrsched[plots]'" in capsys.readouterr().err


def test_without_matplotlib_a_range_test_says_it_too(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = RangeTestResult([0, 1], [0.1, 0.2], [1.0, 0.9], [1.0, 0.9], "max_lr", "linear", [1.0])
    for picture in (result.plot, lambda: RangeTestResult.compare({"one": result})):
        with pytest.raises(ImportError, match=r"pip install 'lightning-lrsched\[plots\]'"):
            picture()


@pytest.mark.parametrize("to", ["json", "yaml"])
def test_convert_changes_the_format_and_resolves_what_is_known(write, tmp_path, to):
    output = tmp_path / f"out.{to}"
    assert main(["convert", write(AUTO), str(output), "--steps", "50"]) == 0
    content = yaml.safe_load(output.read_text()) if to == "yaml" else json.loads(output.read_text())
    assert content["train_batch_size"] == "auto"
    assert content["scheduler"]["params"] == {
        "total_num_steps": 50, "warmup_num_steps": "1ep", "warmup_max_lr": 2e-4,
    }  # fmt: skip
    assert SchedulerConfig.load(output) == SchedulerConfig.from_dict(content)


def test_convert_there_and_back_changes_nothing(write, tmp_path, capsys):
    for content in (ONE_CYCLE, {"deepspeed": {"scheduler": ONE_CYCLE, "x": [1]}, "y": None}):
        there = tmp_path / "there.yaml"
        assert main(["convert", write(content), str(there)]) == 0
        assert main(["convert", str(there)]) == 0
        assert json.loads(capsys.readouterr().out) == content


def test_check_looks_into_folders_and_tells_warnings(write, tmp_path, capsys):
    section = {"type": "WarmupLR", "params": {"warmup_num_steps": 10}}
    write({"optimizer": {"type": "SGD", "params": {"lr": 0.1}}, "scheduler": section}, "a.json")
    write("not: [valid", "b.yaml")
    write("something else", "c.txt")
    assert main(["check", str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "a.json: ok: scheduler WarmupLR, optimizer SGD; warning: WarmupLR: warmup_max_lr was not given" in first
    assert "b.yaml: not valid YAML" in second


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["preview", "missing.json"], "missing.json: no such file"),
        (["preview", "{auto}"], "total_num_steps='auto' needs to know how long the run is, .* give --steps"),
        (["preview", "{bad}"], "did you mean 'warmup_num_steps'"),
        (["convert", "{bad}"], "did you mean 'warmup_num_steps'"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(write, capsys, arguments, complaint):
    files = {
        "{auto}": write(AUTO, "auto.json"),
        "{bad}": write({"type": "WarmupLR", "params": {"warmup_steps": 3}}, "bad.json"),
    }
    assert main([files.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-lrsched: ")
    assert error.count("\n") == 1
    import re

    assert re.search(complaint, error)


@pytest.mark.parametrize("steps", ["0", "-3", "many", "1e3", "99999999999"])
def test_a_wrong_number_of_steps_is_refused(write, capsys, steps):
    with pytest.raises(SystemExit):
        main(["preview", write(ONE_CYCLE), "--steps", steps])
    assert "must be a whole number in 1.." in capsys.readouterr().err
