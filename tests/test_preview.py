"""The subcommand preview: its table, its CSV, its picture."""

from __future__ import annotations

import csv
import io
import sys

import pytest
import torch

from lightning_lrsched import SchedulerConfig, preview
from lightning_lrsched.__main__ import main
from tests.kit.schedules import AUTO, ONE_CYCLE


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


@pytest.mark.parametrize("name", ["x.png", "x"])
def test_a_picture_is_written_and_its_name_is_said(write, tmp_path, capsys, name):
    assert main(["preview", write(ONE_CYCLE), "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {tmp_path / 'x.png'}\n" in capsys.readouterr().err


@pytest.mark.parametrize("plot", ["", "{folder}"])
def test_a_picture_needs_the_name_of_a_file(write, tmp_path, capsys, plot):
    assert main(["preview", write(ONE_CYCLE), "--plot", plot.format(folder=tmp_path)]) == 2
    assert "--plot must be the name of a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.parent.glob("*.png")] == []


def test_without_matplotlib_the_message_says_what_to_install(write, capsys, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["preview", write(ONE_CYCLE), "--plot", "x.png"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


PHASES = {"type": "PhasedLR", "params": {"phases": [{"steps": 7, "lr": 0.1}, {"steps": 0.5}, {"steps": 33, "lr": 0}]}}


def test_the_ends_of_phases_are_marked(write, tmp_path, capsys):
    plot = tmp_path / "x.svg"
    assert main(["preview", write(PHASES), "--steps", "100", "--plot", str(plot)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert last == "(its parts end at the steps 7, 57, 90)"
    assert {"7", "57", "90"} <= {line.split()[0] for line in table}
    assert plot.read_text().count("stroke-dasharray") == 3  # dotted lines


def test_what_lies_beyond_the_end_of_the_picture_is_not_marked(write, tmp_path, capsys):
    plot = tmp_path / "x.svg"
    assert main(["preview", write(PHASES), "--steps", "50", "--plot", str(plot)]) == 0
    assert plot.read_text().count("stroke-dasharray") == 2  # at 7 and at 32, half of the run later


def test_stable_part_and_decay_are_marked_too(write, capsys):
    params = {"total_num_steps": 100, "warmup_num_steps": 10, "warmup_max_lr": 0.1}
    assert main(["preview", write({"type": "WarmupStableDecayLR", "params": params})]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "(its parts end at the steps 10, 80, 100)"


def test_the_legend_names_every_group_and_no_line_is_hidden_behind_another():
    rows = [(step, {"lr": [0.1 * step, 0.1 * step, 0.3], "momentum": [0.9] * 3}) for step in range(5)]
    lrs, momenta = preview.draw("PhasedLR", rows).axes
    assert [line.get_label() for line in lrs.get_lines()] == ["param groups 1, 2", "param group 3"]
    assert [text.get_text() for text in momenta.get_legend().get_texts()] == ["param groups 1, 2, 3"]


def test_weight_decay_has_a_column_and_a_panel_of_its_own(write, tmp_path, capsys):
    phases = [{"steps": 10, "lr": 0.1, "weight_decay": 0.5}]
    file, plot = write({"type": "PhasedLR", "params": {"phases": phases}}), tmp_path / "x.svg"
    assert main(["preview", file, "--plot", str(plot)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["step", "lr", "weight_decay"]
