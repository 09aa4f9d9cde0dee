"""At the end of a run: what was found, package by package, as a table, and as JSON in build/third_party.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOUND = pytest.StashKey[dict[str, dict[str, Any]]]()
COLUMNS = ("version", "steps", "own", "one_line", "config", "suggestion")


@pytest.fixture(scope="session")
def found(pytestconfig: pytest.Config) -> dict[str, dict[str, Any]]:
    """Name of a training -> what its tests have found."""
    return pytestconfig.stash.setdefault(FOUND, {})


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(FOUND, {})
    if not found:
        return
    file = Path("build") / "third_party.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1))
    terminalreporter.section("other people's packages")
    rows = [("", *COLUMNS), *((name, *(_shown(row.get(key, "-")) for key in COLUMNS)) for name, row in found.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        terminalreporter.write_line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)))
    for name, row in found.items():
        if "refused" in row:
            terminalreporter.write_line(f"{name}, without take_over: {row['refused']}")
