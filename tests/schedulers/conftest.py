"""DeepSpeed itself, imported once, and the line that quotes how far from it the schedules are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def deepspeed() -> ModuleType:
    """DeepSpeed's own lr_schedules module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("DeepSpeed", "deepspeed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        pytest.importorskip("deepspeed", reason="DeepSpeed, with which the schedules are compared, is not installed")
        from deepspeed.runtime import lr_schedules
    lr_schedules.logger.setLevel(logging.CRITICAL)
    return lr_schedules


@pytest.fixture(scope="session")
def largest_errors(request: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """What the parity tests found: name of a quantity -> largest relative error; printed at the end of the session."""
    errors: dict[str, float] = {}
    yield errors
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line("\nLargest relative error against DeepSpeed:")
            for name, error in sorted(errors.items()):
                reporter.write_line(f"  {name:<28} {error:.1e}")
