"""The reference has every public name and every subcommand; whether it builds without a warning, `make docs` tells."""

import argparse
import re
from pathlib import Path

import lightning_lrsched
from lightning_lrsched.__main__ import _parser

ROOT = Path(__file__).parents[1]
PAGES = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.rst")]


def documented() -> list[str]:
    names = []
    for page in PAGES:
        module = ""
        for directive, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)$", page, re.MULTILINE):
            if directive == "currentmodule":
                module = f"{name}."
            else:
                names.append(name if name.startswith("lightning_lrsched.") else module + name)
    return names


def test_every_public_name_is_in_the_reference_once():
    names = documented()
    public = {f"lightning_lrsched.{name}" for name in [*lightning_lrsched.__all__, "cli.LRSchedulerCLI"]}
    assert public - set(names) == set()
    assert len(names) == len(set(names))


def test_every_subcommand_is_in_the_reference():
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    shown = re.findall(r"^\.\. console-help:: (\S+)$", "\n".join(PAGES), re.MULTILINE)
    assert sorted(shown) == sorted(commands.choices)
    assert "lightning_lrsched.cli.LRRangeTestTrainer.lr_range_test" in documented()


def test_the_site_finds_the_pictures_of_its_markdown_pages():
    # Those of Markdown and of <img> it copies; other HTML it passes on as it stands, files left behind.
    pages = [*ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    assert len(pages) >= 3
    assert [page.name for page in pages if re.search(r"<(picture|source|video)\b", page.read_text("utf-8"))] == []


def test_every_cell_of_the_table_of_strategies_names_a_test_that_exists():
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    matrix, tests = page.partition("## The tests")[::2]
    rows = [line for line in matrix.splitlines() if line.startswith("| ")][1:]
    used = {
        cell.split(" ")[0]
        for row in rows
        for cell in row.split(" | ")[1:]
        if re.fullmatch(r"[a-z]( .*)?", cell.strip(" |"))
    }
    named = dict(re.findall(r"^\| ([a-z]) \| (.+) \|$", tests, re.MULTILINE))
    assert used == set(named)
    for text in named.values():
        files = [ROOT / file for file in re.findall(r"`(tests/[\w/]+\.py)`", text)]
        content = "".join(file.read_text(encoding="utf-8") for file in files)
        assert files
        for name in re.findall(r"`(test_\w+)`", text):
            assert f"def {name}(" in content, name
