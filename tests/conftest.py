"""Quotes, at the end of a run, how far from DeepSpeed the schedules are; from all worker processes together."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import settings

# pytest --hypothesis-profile=nightly
settings.register_profile("nightly", max_examples=20_000, deadline=None)

LARGEST: dict[str, float] = {}


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
    """Begin each test at the same seeds: whether it passes must not depend on luck, or on which tests ran before."""
    random.seed(0)
    torch.manual_seed(0)


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
