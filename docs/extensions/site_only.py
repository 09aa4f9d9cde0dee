"""Parts of a Markdown page that only the site needs, such as a list of its pages, or a grid of pictures.

In the repository such a part is a comment, so readers do not see it: it begins with a line ``<!-- site:`` and ends with
a line ``-->``.
"""

from __future__ import annotations

import re
from typing import Any

SITE_ONLY = re.compile(r"^<!-- site:\n(.*?)^-->$", re.MULTILINE | re.DOTALL)


def uncomment(page: str) -> str:
    """Return a page with the parts for the site as text; the numbers of its lines stay."""
    return SITE_ONLY.sub(r"\n\1", page)


def _read(_app: Any, _name: str, source: list[str]) -> None:
    source[0] = uncomment(source[0])


def setup(app: Any) -> dict[str, bool]:
    """Have every page read in this way."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
