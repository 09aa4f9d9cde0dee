"""Tables of the reference that the code itself fills: the keys of a configuration, and what the command prints.

``.. configuration-keys::``: every key of every schedule, by the schedule.
``.. words-for-keys::``: what ``"auto"`` and ``"lr_range_test"`` mean for each key that takes one of them.
``.. console-help:: preview``: what ``lightning-lrsched preview --help`` prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.directives.tables import ListTable
from docutils.statemachine import StringList

from lightning_lrsched.__main__ import main
from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.schedules.fields import REQUIRED, Choice, Count, Field, ListOf, Number, Steps, Switch, with_keys

WORDS = ("auto", "lr_range_test")


class ConsoleHelp(Directive):
    """Shows what the command prints when it is asked for help."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        os.environ["COLUMNS"] = "100"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*self.arguments, "--help"])
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


class Table(Directive):
    """Base of the directives that show a table."""

    def header(self) -> list[str]:
        """Return the titles of the columns."""
        raise NotImplementedError

    def rows(self) -> list[list[str]]:
        """Return the cells, in reStructuredText."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        lines = [
            f"{'  - ' if column else '* - '}{cell}"
            for row in [self.header(), *self.rows()]
            for column, cell in enumerate(row)
        ]
        options = {"header-rows": 1}
        content = StringList(lines, source=self.name)
        place = (self.lineno, self.content_offset, "", self.state, self.state_machine)
        return ListTable("list-table", [], options, content, *place).run()


class WordsForKeys(Table):
    """Shows what the two words mean, read from the fields of the schedules."""

    def header(self) -> list[str]:
        """Return the titles of the columns."""
        return ["key", "schedules", *(f'``"{word}"`` means' for word in WORDS)]

    def rows(self) -> list[list[str]]:
        """Return a row for each key."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        for name, schedule in SCHEDULES.items():
            for key, field in with_keys(schedule.fields):
                meanings = [_meaning(field, word) for word in WORDS]
                if any(meanings):
                    found.setdefault(key, ([], meanings))[0].append(f":class:`~lightning_lrsched.{name}`")
        return [[f"``{key}``", ", ".join(owners), *meanings] for key, (owners, meanings) in found.items()]


def _meaning(field: Field, word: str) -> str:
    found = re.search(rf'"{word}": ([^"]+?)\.(?= "| \(default)', field.describe())
    return found[1] if found else ""


class ConfigurationKeys(Table):
    """Shows the keys of every schedule, in a section each."""

    schedule = ""

    def header(self) -> list[str]:
        """Return the titles of the columns."""
        return ["key", "value", "default", "meaning"]

    def rows(self) -> list[list[str]]:
        """Return a row for each key."""
        fields = with_keys(SCHEDULES[self.schedule].fields)
        return [[f"``{key}``", allowed(field), _default(field), field.help] for key, field in fields]

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        found: list[nodes.Node] = []
        for self.schedule in sorted(SCHEDULES, key="LRRangeTest".__eq__):
            title = f"{self.schedule} keys"
            section = nodes.section("", nodes.title(title, title), *super().run(), names=[title.lower()])
            self.state.document.note_implicit_target(section, section)
            found.append(section)
        return found


def _default(field: Field) -> str:
    return "required" if field.default is REQUIRED else f"``{json.dumps(field.default)}``"


def allowed(field: Field) -> str:
    """Return in words which values a field takes."""
    words = _kind(field.rule)
    if isinstance(field.rule, Number) and field.rule.per_group:
        words += ", or a list with one for each param group"
    if isinstance(field.rule, Number) and field.rule.ratio:
        words += ', or ``{"ratio": x}``'
    quoted = [f'``"{word}"``' for word in WORDS if _meaning(field, word)]
    return ", ".join([words, *quoted])


def _kind(rule: Any) -> str:
    if isinstance(rule, Steps):
        return f'steps, at least {rule.at_least}; also ``0.1``, ``"10%"``, ``"2ep"``'
    if isinstance(rule, Count):
        return f"a whole number, at least {rule.at_least}"
    if isinstance(rule, Switch):
        return "true or false"
    if isinstance(rule, Choice):
        return " or ".join(f'``"{value}"``' for value in rule.allowed)
    if isinstance(rule, ListOf):
        return "a list of mappings, with the keys below"
    limits = {"at least": rule.at_least, "above": rule.above, "below": rule.below, "at most": rule.at_most}
    shown = [f"{word} {limit:g}" for word, limit in limits.items() if abs(limit) != float("inf")]
    return " ".join(["a number", " and ".join(shown)]).strip()


def setup(app: Any) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("console-help", ConsoleHelp)
    app.add_directive("words-for-keys", WordsForKeys)
    app.add_directive("configuration-keys", ConfigurationKeys)
    return {"parallel_read_safe": True}
