"""DeepSpeed for the tests that need it, and, at the end of a run, how far from it the schedules are.

The errors of all worker processes are quoted together.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

with contextlib.suppress(ImportError):  # the tests on a GPU need no hypothesis
    from hypothesis import settings

    # No example is timed: the first one of a process may load the compiler, and the machine may be busy.
    settings.register_profile("untimed", settings(), deadline=None)
    settings.load_profile("untimed")
    # pytest --hypothesis-profile=nightly
    settings.register_profile("nightly", max_examples=20_000, deadline=None)

LARGEST: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    if importlib.util.find_spec("pytest_timeout") is None:
        parser.addini("timeout", "of pytest-timeout, which is not installed here")


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
    """Begin each test at the same seeds: whether it passes must not depend on luck, or on which tests ran before."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """A Trainer that is quiet and writes only where a test asks it to."""
    from lightning.pytorch import Trainer  # here: the tests of the schedules need no Lightning

    from tests.kit.modules import QUIET

    def make(*callbacks: Any, **options: Any) -> Any:
        defaults = {**QUIET, "default_root_dir": tmp_path, "max_epochs": 3}
        return Trainer(callbacks=list(callbacks), **{**defaults, **options})

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a configuration file and return its path."""

    def write_file(content: object, name: str = "config.json") -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write_file


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, only the first bytes of a text can be written."""

    def write_text(path: Path, text: str, **options: Any) -> None:
        path.write_bytes(text.encode()[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_text)


@pytest.fixture(scope="session")
def deepspeed() -> ModuleType:
    """DeepSpeed's own lr_schedules module; a test that asks for it is slow: the quick suite needs no DeepSpeed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("DeepSpeed", "deepspeed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        pytest.importorskip("deepspeed", reason="DeepSpeed, with which this package is compared, is not installed")
        from deepspeed.runtime import lr_schedules
    lr_schedules.logger.setLevel(logging.CRITICAL)
    return lr_schedules


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "third_party" not in (config.getoption("markexpr") or ""):
        items[:] = [item for item in items if item.get_closest_marker("third_party") is None]
    for item in items:
        if "deepspeed" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


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
