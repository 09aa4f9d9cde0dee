"""The README: short, every block runs by itself, and what it states is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lightning_lrsched.__main__ import main
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.page_model import Model, make_data
from tests.kit.pages import blocks, commands_of, python_of, write_files

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
MAX_WORDS = 1200

pytestmark = pytest.mark.filterwarnings("ignore:.*GPU available")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the README shows, which is the present one."""
    write_files(PAGE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(page: str) -> list[str]:
    """Return what a reader reads: no code, no addresses, no comments."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return [word for word in text.split() if re.search(r"\w", word)]


def test_it_is_read_in_a_few_minutes():
    assert len(words(README)) <= MAX_WORDS
    assert words("one `two`\n```sh\nthree\n```\n[four](five six) <!-- seven -->") == ["one", "`two`", "[four]"]


@pytest.mark.parametrize("number", range(len(python_of(PAGE))))
def test_every_python_block_runs_by_itself(folder, number):
    model = Model()
    exec(compile(python_of(PAGE)[number], f"README.md, block {number}", "exec"), {"model": model, "data": make_data()})
    assert model.lrs
    assert len(set(model.lrs[-1].values())) > 2  # a schedule was followed


def test_a_lightning_cli_takes_the_file(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py"])
    cli = pytest.importorskip("lightning.pytorch.cli", reason="LightningCLI needs jsonargparse")
    made = cli.LightningCLI(
        Model, run=False, save_config_callback=None, seed_everything_default=False, args=["--config=config.yaml"]
    )
    made.trainer.fit(made.model, make_data())
    assert max(made.model.lrs[0].values()) == pytest.approx(0.1, rel=1e-3)  # the optimizer's own
    assert len(made.model.lrs[0]) == 5 * 40


def test_every_block_has_a_language_that_a_test_runs():
    assert {language for language, _ in blocks(PAGE)} == {"python", "sh", "yaml"}
    for language, text in blocks(PAGE):
        if language == "yaml":
            assert text.startswith(("# schedule.yaml\n", "# config.yaml\n"))


def test_the_commands_run(folder, capsys):
    commands = [command for command in commands_of(PAGE) if command[0] == "lightning-lrsched"]
    assert len(commands) >= 2
    for command in commands:
        assert main(command[1:]) == 0
    assert "WarmupCosineLR: 1000 optimizer steps" in capsys.readouterr().out
    assert (folder / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_the_other_commands_are_pip_and_targets_of_make():
    targets = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in commands_of(PAGE):
        if command[0] == "make":
            assert re.search(rf"^make {command[1]} ", targets, re.MULTILINE)
        else:
            assert command[0] in {"pip", "lightning-lrsched"}


def test_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(targets) > 10
    for target in targets:
        assert (ROOT / target).exists(), target


def test_every_schedule_is_named():
    assert [name for name in SCHEDULERS if f"`{name}`" not in README] == []


def test_the_versions_are_those_that_are_promised_and_pinned():
    rows = dict(re.findall(r"^\| (torch|lightning|Python)\b[^|]* \| ([\d.]+ \| [\d.]+) \|$", README, re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\d+\.\d+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    oldest = dict(re.findall(r'^  "([\w-]+)>=(\d+\.\d+)[",]', project, re.MULTILINE))
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    assert rows == {
        "Python": f"{pythons[0]} | {pythons[-1]}",
        **{name: f"{oldest[name]} | {pins[name]}" for name in ("torch", "lightning")},
    }
    assert f"python-{pythons[0]}%20to%20{pythons[-1]}" in README
