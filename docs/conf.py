"""How `make docs` builds the site. The source folder is the repository: its Markdown files are pages as they stand."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
from typing import get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.directives.tables import ListTable
from docutils.statemachine import StringList
from sphinx.util.inspect import stringify_signature

from lightning_lrsched import __version__
from lightning_lrsched.__main__ import main
from lightning_lrsched.schedulers import SCHEDULERS, ClosedFormLR
from lightning_lrsched.schedulers.parameters import AutoLr, with_keys
from lightning_lrsched.schedulers.phased import Phase

project = "lightning_lrsched"
release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]

root_doc = "docs/index"
include_patterns = ["docs/**.rst", "docs/**.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/**.md"]
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
    (r"py:.*", r"(argparse|collections|enum|inspect|lightning|numpy|pathlib|torch)\..*"),
    (r"py:class", r"Figure"),  # matplotlib's, imported for type checkers alone
    (r"py:class", r"lightning_lrsched\.range_test\.loop\.Batch"),  # a type variable: whatever the loader yields
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


class AutoMeanings(Directive):
    """``.. auto-meanings::``: a table of what ``"auto"`` means, read from the rules of the schedules' parameters."""

    def run(self) -> list[nodes.Node]:
        rows = ["* - key", "  - schedules", '  - ``"auto"`` means']
        for key, (owners, meaning) in auto_meanings().items():
            listed = ", ".join(f":class:`~lightning_lrsched.{owner}`" for owner in owners)
            rows += [f"* - ``{key}``", f"  - {listed}", f"  - {meaning}"]
        options = {"header-rows": 1}
        content = StringList(rows, source="auto-meanings")
        return ListTable(
            "list-table", [], options, content, self.lineno, self.content_offset, "", self.state, self.state_machine
        ).run()


def auto_meanings() -> dict[str, tuple[list[str], str]]:
    """Return key -> (schedules that have it, what ``"auto"`` means)."""
    found: dict[str, tuple[list[str], str]] = {}
    for name, schedule in SCHEDULERS.items():
        for key, parameter in with_keys(schedule.parameters()).items():
            auto = parameter.rule.auto
            if auto is not None:
                steps = "the whole run" if auto == 1.0 else f"{auto} of the run"
                meaning = str(auto) if isinstance(auto, AutoLr) else steps
                found.setdefault(key, ([], meaning))[0].append(name)
    return found


def show_plain_types(_app, what, _name, obj, _options, _signature, returns):
    """A schedule's signature without the rules behind its types, which the descriptions give in words."""
    if what != "class" or not issubclass(obj, (ClosedFormLR, Phase)):
        return None
    types = get_type_hints(obj.__init__)  # without include_extras: Annotated[int, Steps()] is int
    signature = inspect.signature(obj)
    arguments = [
        argument.replace(annotation=types.get(argument.name, argument.annotation))
        for argument in signature.parameters.values()
    ]
    plain = signature.replace(parameters=arguments, return_annotation=inspect.Signature.empty)
    return stringify_signature(plain, unqualified_typehints=True), returns


def keep_the_value_alone(_app, what, _name, _obj, _options, lines):
    """A constant's docstring is that of its type, ``str(object='')`` and so on."""
    if what == "data":
        lines.clear()


def setup(app):
    app.connect("autodoc-process-docstring", keep_the_value_alone)
    app.connect("autodoc-process-signature", show_plain_types)
    app.add_directive("console-help", ConsoleHelp)
    app.add_directive("auto-meanings", AutoMeanings)
