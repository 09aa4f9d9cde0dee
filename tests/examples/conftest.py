"""The examples as modules: they are scripts, which import each other from their own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(folder: Path, name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def large_batch() -> ModuleType:
    return load(EXAMPLES, "large_batch")


@pytest.fixture(scope="session")
def make() -> ModuleType:
    return load(EXAMPLES / "pictures", "make")


@pytest.fixture(scope="session")
def fabric_loop() -> ModuleType:
    return load(EXAMPLES, "fabric_loop")


@pytest.fixture(scope="session")
def cooldown() -> ModuleType:
    return load(EXAMPLES, "cooldown")


@pytest.fixture(scope="session")
def weight_decay() -> ModuleType:
    return load(EXAMPLES, "weight_decay")
