"""The page of what a program asks of the classes, ``docs/api.md``: made from their docstrings.

    python docs/extensions/api_page.py

writes it. It is checked in: a reader of the repository sees it where no site is built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import lightning_lrsched

DOCS = Path(__file__).parents[1]
HEAD = """\
# Attributes and methods

<!-- Made by docs/extensions/api_page.py from the docstrings. Change a docstring there. -->

These are the names that a program needs. [Callbacks](callbacks.rst), [Range test](range_test.rst) and
[Schedulers](schedulers.rst) have all of them, on the site.
"""
SHOWN = {
    "LRSchedulerCallback": (
        *("probe_result", "range_test_result", "probe_results", "range_test_results", "schedulers"),
    ),
    "LRRangeTestCallback": ("result",),
    "ProbeResult": ("peak", "because", "prior", "lowest", "lrs", "losses", "learning_rates", "plot"),
    "RangeTestResult": (
        *("suggestion", "bounds", "caveats", "one_cycle", "warmup_decay", "plot", "to_markdown", "combine", "compare"),
        *("save", "load", "lrs", "losses", "stop_reason", "coarse", "prior"),
    ),
    "SchedulerConfig": ("from_dict", "load", "build", "resolve", "to_dict", "params"),
    "OneCycle": ("lr_at", "momentum_at", "values_at", "follow_optimizer", "set_position", "hyperparameters"),
    "RangeTest": ("batches", "record", "result"),
}
"""Class -> the names that are shown."""

TITLES = {"OneCycle": "A schedule, such as OneCycle"}
FUNCTIONS = ("configure_optimizers", "trainer_arguments")


def page() -> str:
    """Return the text of the page."""
    return HEAD + "".join(map(_section, SHOWN)) + _functions()


def files() -> dict[Path, str]:
    """Return the text of the file that is made here."""
    return {DOCS / "api.md": page()}


def _section(name: str) -> str:
    cls = getattr(lightning_lrsched, name)
    lines = (f"- `{_call(cls, member)}`: {_sentence_of(cls, member)}\n" for member in SHOWN[name])
    return f"\n## {TITLES.get(name, name)}\n\n{_plain(_first(inspect.getdoc(cls)))}\n\n{''.join(lines)}"


def _functions() -> str:
    found = ((name, getattr(lightning_lrsched, name)) for name in FUNCTIONS)
    return "\n## Functions\n\n" + "".join(
        f"- `{name}()`: {_plain(_first(inspect.getdoc(one)))}\n" for name, one in found
    )


def _call(cls: type, member: str) -> str:
    found = inspect.getattr_static(cls, member, None)
    return f"{member}()" if inspect.isroutine(found) or isinstance(found, (classmethod, staticmethod)) else member


def _sentence_of(cls: type, member: str) -> str:
    """Return what a member is, in one sentence: from its own docstring, or from that of its class."""
    found = inspect.getattr_static(cls, member, None)
    if inspect.isroutine(found) or isinstance(found, (property, classmethod, staticmethod)):
        return _plain(_first(inspect.getdoc(getattr(cls, member))))
    texts = dict(_arguments(inspect.getdoc(cls) or ""))
    return _plain(texts[member][:1].upper() + texts[member][1:])


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each entry under Args and Attributes."""
    for name, text_of_name in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE):
        yield name, " ".join(text_of_name.split())


def _first(text: str | None) -> str:
    """Return the first paragraph of a docstring."""
    assert text
    return " ".join(text.partition("\n\n")[0].split())


def _plain(text: str) -> str:
    """Return the text in Markdown, without Sphinx's roles."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8", newline="\n")
