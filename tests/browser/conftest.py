"""A browser for the tests of what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    """The script that draws the README's pictures of TensorBoard: it can start and drive TensorBoard and a browser."""
    script = Path(__file__).parents[2] / "examples" / "pictures" / "tensorboard_pages.py"
    spec = spec_from_file_location("tensorboard_pages", script)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(pages: ModuleType) -> Iterator[Any]:
    if pages.CHROMIUM is None:
        pytest.skip(f"needs Chromium: none of {', '.join(pages.NAMES)} is installed")
    with pages.Browser.started() as started:
        yield started
