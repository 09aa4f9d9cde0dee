"""Marks for what an older torch or Lightning, which is supported, cannot do itself."""

from __future__ import annotations

import lightning
import pytest
import torch
from packaging.version import Version


def not_in_torch(series: str, why: str) -> pytest.MarkDecorator:
    """Skip a test in the releases of one series ("2.4") and before."""
    return _not_in("torch", Version(torch.__version__), series, why)


def not_in_lightning(series: str, why: str) -> pytest.MarkDecorator:
    """Skip a test in the releases of one series ("2.4") and before."""
    return _not_in("Lightning", Version(lightning.__version__), series, why)


def _not_in(name: str, installed: Version, series: str, why: str) -> pytest.MarkDecorator:
    last = Version(series).release
    return pytest.mark.skipif(
        installed.release[: len(last)] <= last, reason=f"needs a newer {name} than {series}: {why}"
    )
