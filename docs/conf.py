"""How `make docs` builds the site. The source folder is the repository: its Markdown files are pages as they stand."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import get_type_hints

from sphinx.util.inspect import stringify_signature

from lightning_lrsched import __version__
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.schedules.fields import Fields

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "lightning_lrsched"
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "console_help",
    "schedule_curves",
    "site_only",
    "source_links",
]

# The address of the repository, https://github.com/OWNER/NAME: `Source` in pyproject.toml. With it, pages link to files
# there, and the tutorial has a link that opens its notebook in Colab. Without it: neither.
pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
repository_url = "".join(re.findall(r'^Source = "(.+)"$', pyproject, re.MULTILINE))

root_doc = "docs/index"
include_patterns = ["docs/**.rst", "docs/**.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build"]  # only so that they are not searched

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # what a hook of Lightning is for, Lightning's documentation says
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 120
napoleon_custom_sections = ["Source"]
myst_heading_anchors = 3  # as on GitHub: a link to a section works there and here
myst_enable_extensions = ["html_image", "colon_fence"]  # pictures with a width; directives whose text GitHub shows

# The names of others, in annotations. No inventories are downloaded: they are shown without a link. Every other name
# must be found in the reference.
nitpick_ignore_regex = [
    (r"py:.*", r"(argparse|collections|enum|inspect|lightning|numpy|pathlib|torch)\..*"),
    (r"py:class", r"Figure"),  # matplotlib's, imported for type checkers alone
    (r"py:class", r"lightning_lrsched\..*\.(Self|Batch|Declared)"),  # type variables
    # Not for users: bases of public classes, and arguments that the package itself passes.
    (r"py:class", r"lightning_lrsched\..*\.(PublicScheduler|RandomStates|Sections|Start|TrainerLike)"),
]

html_theme = "furo"
if repository_url:
    html_theme_options = {"source_repository": repository_url, "source_branch": "main", "source_directory": ""}
html_title = f"lightning_lrsched {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_copy_source = False
html_show_copyright = False
pygments_dark_style = "github-dark"  # the theme's own underlines what is imported
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def show_plain_types(_app, what, _name, obj, _options, _signature, returns):
    """A schedule's signature without the rules behind its types, which the descriptions give in words."""
    if what != "class" or not issubclass(obj, (ScheduledLR, Fields)):
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


def add_colab_link(app, docname, source):
    """Where the repository is known, the tutorial's notebook opens in Colab."""
    owner_and_name = app.config.repository_url.removeprefix("https://github.com/")
    if docname == "docs/tutorial/first_range_test" and owner_and_name:
        notebook = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/{docname}.ipynb"
        source[0] = source[0].replace("<!-- end -->", f"[Open it in Colab]({notebook}).\n<!-- end -->", 1)


def setup(app):
    app.connect("autodoc-process-docstring", keep_the_value_alone)
    app.connect("autodoc-process-signature", show_plain_types)
    app.connect("source-read", add_colab_link)
