"""The errors that the comparison with DeepSpeed finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def largest_errors(record_property: Callable[[str, object], None]) -> Iterator[dict[str, float]]:
    """What a parity test finds: name of a quantity -> largest relative error; quoted at the end of the whole run."""
    errors: dict[str, float] = {}
    yield errors
    record_property("largest relative errors", errors)
