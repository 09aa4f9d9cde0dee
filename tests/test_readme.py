"""Every code block of the README runs, one after the other, as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_lrsched.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.parameters import with_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks("python"), start=1):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert names["schedule"].lr_at(100) == [0.002]
    assert "diverged" in capsys.readouterr().out


def test_every_block_has_a_language_that_a_test_runs():
    fences = re.findall(r"^```(\w*)$", README, re.MULTILINE)
    assert set(fences[::2]) == {"python", "sh", "json", "yaml", "text"}  # text: the tables of examples/large_batch.py
    assert set(fences[1::2]) == {""}


def test_the_table_of_words_has_every_key_that_takes_one_and_what_it_means():
    table = README.partition('`"auto"` means')[2]
    rows = re.findall(r"^\| (`[\w\[\].]+`(?:, `[\w\[\].]+`)*) \| (.+?) \|(?: (.+))? \|$", table, re.MULTILINE)
    stated = {
        key: tuple(word.replace("`", "") for word in words)
        for keys, *words in rows
        for key in re.findall(r"[\w\[\].]+", keys)
    }
    parameters = {key: p for schedule in SCHEDULERS.values() for key, p in with_keys(schedule.parameters()).items()}
    expected = {}
    for key, parameter in parameters.items():
        meanings = [
            re.findall(rf'"{word}": ([^"]+?)\.(?= "| \(default)', parameter.describe())
            for word in ("auto", "lr_range_test")
        ]
        if any(meanings):
            expected[key] = tuple(meaning[0] if meaning else "" for meaning in meanings)
    assert stated == expected


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert len(targets) >= 2
    for target in targets:
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, re.MULTILINE), target


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files that the README describes."""
    path = tmp_path_factory.mktemp("reader")
    [ds_config], [config] = blocks("json"), blocks("yaml")
    (path / "ds_config.json").write_text(ds_config)
    (path / "config.yaml").write_text(config)
    python = blocks("python")
    (path / "model.py").write_text(python[0])
    (path / "main.py").write_text(next(block for block in python if "__main__" in block))
    return path


COMMANDS = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]


# "python": a range test and two trainings, each a process of its own.
@pytest.mark.parametrize("program", ["lightning-lrsched", pytest.param("python", marks=pytest.mark.slow)])
def test_the_commands_of_the_readme_run(folder, program):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    start = [sys.executable, "-m", "lightning_lrsched"] if program == "lightning-lrsched" else [sys.executable]
    commands = [arguments for name, *arguments in COMMANDS if name == program]
    assert len(commands) >= 3
    for arguments in commands:
        run = subprocess.run(
            [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert run.returncode == 0, f"{arguments}: {run.stderr}"
