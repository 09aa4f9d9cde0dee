"""A page in Markdown as a notebook: its Python blocks are the cells of code.

    python docs/extensions/notebook.py docs/tutorial/first_range_test.md

writes the notebook beside the page. The page is the only source of the text.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

INSTALL = '%pip install --quiet "lightning-lrsched[plots]" scikit-learn'
ONLY_ON_THE_SITE = re.compile(r"^(<!-- site -->\n.*?^<!-- end -->\n|!\[.*?\]\(.*?\)\n)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)")


def notebook(page: str) -> dict[str, Any]:
    """Return the notebook of a page as the object that its JSON file holds."""
    page = LINK.sub(r"\1", ONLY_ON_THE_SITE.sub("", page))  # files that are not beside the notebook
    parts = BLOCK.split(page)
    cells = [_cell("code", INSTALL)]
    for number, part in enumerate(parts):
        if part.strip():
            cells.append(_cell("code" if number % 2 else "markdown", part.strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def text_of(page: Path) -> str:
    """Return the notebook of a page as the text of its file."""
    return json.dumps(notebook(page.read_text(encoding="utf-8")), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).with_suffix(".ipynb").write_text(text_of(Path(name)), encoding="utf-8")
