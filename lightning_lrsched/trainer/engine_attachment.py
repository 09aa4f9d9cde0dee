# ruff: noqa: D103
"""Moved to deepspeed.py; until the last importer has moved."""

from typing import Any

from lightning_lrsched.trainer.deepspeed import clock_of


def build_for_trainer(trainer: Any, optimizer: Any, make: Any, *, needs_run: bool = False) -> Any:
    return clock_of(trainer).build(trainer, optimizer, make, needs_run=needs_run)
