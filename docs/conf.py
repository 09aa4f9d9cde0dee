"""How `make docs` builds the site. The source folder is the repository: its Markdown files are pages as they stand."""

from __future__ import annotations

import contextlib
import io
import os

from docutils import nodes
from docutils.parsers.rst import Directive

from lightning_lrsched import __version__
from lightning_lrsched.__main__ import main

project = "lightning_lrsched"
release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]

root_doc = "docs/index"
include_patterns = ["docs/*.rst", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/**.md"]
exclude_patterns = [".*", "build"]  # only so that they are not searched

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # what a hook of Lightning is for, Lightning's documentation says
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 120
napoleon_custom_sections = ["Source"]
myst_heading_anchors = 3  # as on GitHub: a link to a section works there and here
myst_enable_extensions = ["html_image"]  # pictures with a width

# The names of others, in annotations. No inventories are downloaded: they are shown without a link. Every other name
# must be found in the reference.
nitpick_ignore_regex = [
    (r"py:.*", r"(argparse|collections|inspect|lightning|numpy|pathlib|torch)\..*"),
    (r"py:class", r"Figure"),  # matplotlib's, imported for type checkers alone
]

html_theme = "furo"
html_title = f"lightning_lrsched {release}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_extra_path = ["root"]
html_copy_source = False
html_show_copyright = False


class ConsoleHelp(Directive):
    """``.. console-help:: preview``: what ``lightning-lrsched preview --help`` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "100"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*self.arguments, "--help"])
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def keep_the_value_alone(_app, what, _name, _obj, _options, lines):
    """A constant's docstring is that of its type, ``str(object='')`` and so on."""
    if what == "data":
        lines.clear()


def setup(app):
    app.connect("autodoc-process-docstring", keep_the_value_alone)
    app.add_directive("console-help", ConsoleHelp)
