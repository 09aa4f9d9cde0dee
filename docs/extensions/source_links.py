"""Links to files of the repository: to their page where they have one, to the repository where it is known.

Without this, Sphinx copies every file that a Markdown page links to, and the link downloads it.
"""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

OFFERED = ".ipynb"
"""What a reader wants as a file."""


class SourceLinks(SphinxTransform):
    """Replaces the downloads that Markdown's links to files have become."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Replace them."""
        for link in list(self.document.findall(addnodes.download_reference)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(self.env.docname), link["reftarget"]))
            if link.get("reftype") == "myst" and not target.endswith(OFFERED):
                link.replace_self(self._instead(target.lstrip("/"), link.children))

    def _instead(self, path: str, text: list[nodes.Node]) -> nodes.Node:
        page = self._page_of_example(PurePosixPath(path))
        if page == self.env.docname:
            return nodes.inline("", "", *text)
        if page:
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{page}"}
            return addnodes.pending_xref("", *text, refdoc=self.env.docname, refexplicit=True, refwarn=True, **target)
        if self.config.repository_url:
            return nodes.reference("", "", *text, refuri=f"{self.config.repository_url}/blob/main/{path}")
        return nodes.inline("", "", *text)

    def _page_of_example(self, path: PurePosixPath) -> str:
        """Return the page that shows a file of ``examples``, which has its name or that of its folder; else ""."""
        pages = [f"docs/examples/{name}" for name in (path.stem, path.parent.name)]
        known = [page for page in pages if page in self.env.found_docs]
        return known[0] if path.parts[0] == "examples" and known else ""


def setup(app: Any) -> dict[str, bool]:
    """Add the transform."""
    app.add_config_value("repository_url", "", "env")
    app.add_transform(SourceLinks)
    return {"parallel_read_safe": True}
