"""Quotes, at the end of a run, how far from DeepSpeed the schedules are; from all worker processes together."""

from __future__ import annotations

import pytest
from hypothesis import settings

# pytest --hypothesis-profile=nightly
settings.register_profile("nightly", max_examples=20_000, deadline=None)

LARGEST: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, errors in report.user_properties:
        if name == "largest relative errors":
            for quantity, error in errors.items():
                LARGEST[quantity] = max(error, LARGEST.get(quantity, 0.0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LARGEST:
        terminalreporter.section("largest relative error against DeepSpeed")
        for quantity, error in sorted(LARGEST.items()):
            terminalreporter.write_line(f"{quantity:<28} {error:.1e}")
