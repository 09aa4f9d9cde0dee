"""A page in Markdown as a notebook: its Python blocks are the cells of code.

    python docs/extensions/notebook.py docs/tutorial/first_range_test.md

writes the notebook beside the page, and into ``examples/tutorial`` the script in the form of Lightning's tutorials
(github.com/Lightning-AI/tutorials): cells of jupytext's percent format. The page is the only source of the text.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[2] / "examples" / "tutorial"
INSTALL = '%pip install --quiet "lightning-lrsched[plots]" scikit-learn'
ONLY_ON_THE_SITE = re.compile(r"^(<!-- site -->\n.*?^<!-- end -->\n|!\[.*?\]\(.*?\)\n)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)")
HEADING = re.compile(r"^# .+\n\n(?:.+\n)+")


def notebook(page: str) -> dict[str, Any]:
    """Return the notebook of a page as the object that its JSON file holds."""
    cells = [_cell("code", INSTALL), *(_cell(kind, text) for kind, text in cells_of(page))]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def script(page: str) -> str:
    """Return the script of a page, for Lightning's tutorials.

    Those begin each one with the title and the description of its ``.meta.yml``, and install its ``requirements.txt``.
    """
    cells = []
    for kind, text in cells_of(HEADING.sub("", page)):
        if kind == "markdown":
            lines = [f"# {line}".rstrip() for line in text.splitlines()]
            cells.append("\n".join(["# %% [markdown]", *lines]))
        else:
            cells.append(f"# %%\n{text}")
    return "\n\n".join(cells) + "\n"


def cells_of(page: str) -> list[tuple[str, str]]:
    """Return kind and text of each cell; links to files that are not beside the notebook become plain text."""
    parts = BLOCK.split(LINK.sub(r"\1", ONLY_ON_THE_SITE.sub("", page)))
    return [("code" if number % 2 else "markdown", part.strip()) for number, part in enumerate(parts) if part.strip()]


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def text_of(page: Path) -> str:
    """Return the notebook of a page as the text of its file."""
    return json.dumps(notebook(page.read_text(encoding="utf-8")), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.with_suffix(".ipynb").write_text(text_of(page), encoding="utf-8")
        (TUTORIALS / f"{page.stem}.py").write_text(script(page.read_text(encoding="utf-8")), encoding="utf-8")
