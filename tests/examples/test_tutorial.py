"""The tutorial in the form of Lightning's tutorials: made from the page, complete, and it runs as a script."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "tutorial"
SCRIPT = FOLDER / "first_range_test.py"
PAGE = (ROOT / "docs" / "tutorial" / "first_range_test.md").read_text("utf-8")
sys.path.append(str(ROOT / "docs" / "extensions"))


def cells(text: str) -> list[tuple[str, str]]:
    """Return kind and text of each cell of a script in jupytext's percent format."""
    _, *parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    found = []
    for mark, part in zip(parts[::2], parts[1::2], strict=True):
        lines = part.strip("\n").splitlines()
        if mark:
            assert mark == " [markdown]"
            assert all(line == "#" or line.startswith("# ") for line in lines)
            lines = [line[2:] for line in lines]
        found.append(("markdown" if mark else "code", "\n".join(lines)))
    return found


def test_the_script_is_made_from_the_page() -> None:
    from notebook import cells_of, script

    assert SCRIPT.read_text("utf-8") == script(PAGE), "run python docs/extensions/notebook.py on the page"
    (_, beginning), *of_page = cells_of(PAGE)
    (_, first), *others = cells(SCRIPT.read_text("utf-8"))
    assert others == of_page
    assert beginning.endswith(first)


def test_title_and_description_are_those_of_the_page() -> None:
    # Lightning's tools put them before the first cell, and refuse a folder without one of these four.
    meta = yaml.safe_load((FOLDER / ".meta.yml").read_text("utf-8"))
    title, description = PAGE.split("\n\n")[:2]
    assert f"# {meta['title']}" == title
    assert meta["description"].split() == description.split()
    assert meta["author"]
    assert meta["license"] == "Apache-2.0"
    assert meta["accelerator"] == ["CPU"]


def test_the_folder_has_one_script_and_what_the_notebook_installs() -> None:
    from notebook import INSTALL

    assert [path.name for path in FOLDER.glob("*.py")] == [SCRIPT.name]
    required = (FOLDER / "requirements.txt").read_text("utf-8").split()
    assert [word for word in shlex.split(INSTALL)[2:] if not word.startswith("-")] == required


@pytest.mark.slow  # a range test and three trainings
def test_the_script_trains_better_than_before(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    before, after = map(float, re.search(r"before: ([\d.]+)%, after: ([\d.]+)%", run.stdout).groups())
    one_line = float(re.search(r"^accuracy: ([\d.]+)%", run.stdout, re.MULTILINE)[1])
    assert before < 90
    assert after > 97
    assert one_line > 97
