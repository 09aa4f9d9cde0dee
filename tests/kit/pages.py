"""Pages of the documentation, run as they stand.

A block whose first line is a comment with the name of a file is that file; the other Python blocks run one after the
other; the lines of a ``sh`` block are commands. A ``py`` block is the code of a library that is not installed here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.kit import page_model

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|//) ([\w./]+\.\w+)\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of each block of code."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows, and the module that it takes as given, into a folder."""
    shutil.copy(page_model.__file__, folder / "model.py")
    for _, text in blocks(page):
        if name := FILE_NAME.match(text):
            path = folder / name[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def python_of(page: Path) -> list[str]:
    """Return the Python blocks that are no files."""
    return [text for language, text in blocks(page) if language == "python" and not FILE_NAME.match(text)]


def run_python(page: Path, folder: Path) -> dict[str, Any]:
    """Run the Python blocks of a page in the present folder, which is ``folder``; return the names they define."""
    write_files(page, folder)
    names: dict[str, Any] = {
        "__name__": page.stem,
        "Model": page_model.Model,
        "model": page_model.Model(),
        "data": page_model.make_data(),
    }
    for number, block in enumerate(python_of(page), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


def commands_of(page: Path) -> list[list[str]]:
    """Return the words of each command of a page."""
    lines = [line for language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    return [line.split("#")[0].split() for line in lines]


def run_command(words: list[str], folder: Path, **environment: str) -> str:
    """Run one Python script of a page in a process of its own; return what it printed."""
    assert words[0] == "python"
    paths = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env={**os.environ, **paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]} {done.stderr[-6000:]}"
    return done.stdout + done.stderr
