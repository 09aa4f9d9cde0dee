"""The Makefile: its help has every target, and its clean removes what git ignores."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = ROOT / "Makefile"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(target: str, folder: Path) -> str:
    shutil.copy(MAKEFILE, folder)
    # Not as a part of the make that may run these tests: that would say which folder it enters.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", target], cwd=folder, env=own, capture_output=True, text=True, check=True).stdout


def test_help_has_every_target_in_80_columns(tmp_path):
    lines = make("help", tmp_path).splitlines()
    targets = re.search(r"^\.PHONY: (.+)$", MAKEFILE.read_text("utf-8"), re.MULTILINE)[1].split()
    assert sorted(re.match(r"make ([\w-]+) ", line)[1] for line in lines) == sorted(targets)
    assert max(map(len, lines)) <= 80


def test_clean_removes_all_that_git_ignores_and_nothing_else(tmp_path):
    ignored = [line.strip("/").replace("*", "") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()]
    for name in ignored:
        (tmp_path / name).mkdir()
    (tmp_path / "examples" / "__pycache__").mkdir(parents=True)
    make("clean", tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Makefile", "examples"]
