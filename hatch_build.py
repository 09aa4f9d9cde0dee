"""The README as a package index shows it, where relative links would lead nowhere.

They become links into the repository, at the tag of the version. Its address is ``Source`` in pyproject's
``[project.urls]``; as long as there is none, texts stay without their links, and relative pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[((?:!\[[^]]*\]\([^)]*\)|[^]])*)\]\((?!https?:|#)([^)]+)\)")


def for_index(readme: str, source: str | None, version: str) -> str:
    """Return the README with its relative links and pictures made absolute."""

    def absolute(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if source is None:
            return "" if picture else text
        return f"{picture}[{text}]({source}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return LINK.sub(absolute, readme)


class Readme(MetadataHookInterface):
    """Sets the project's long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set it from README.md."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_index(text, source, metadata["version"]),
        }
