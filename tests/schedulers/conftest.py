"""DeepSpeed itself, imported once, and the errors that the comparison with it finds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
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


@pytest.fixture
def largest_errors(record_property: Callable[[str, object], None]) -> Iterator[dict[str, float]]:
    """What a parity test finds: name of a quantity -> largest relative error; quoted at the end of the whole run."""
    errors: dict[str, float] = {}
    yield errors
    record_property("largest relative errors", errors)
