# ruff: noqa: D103, PLC0414, PLC0415
"""Moved to deepspeed.py; until the last importer has moved."""

from typing import Any

from lightning_lrsched.trainer.deepspeed import EngineState as EngineState
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.deepspeed import engine_of as engine_of


def uses_engine(trainer: Any) -> bool:
    return clock_of(trainer).carries


def follow_engine(scheduler: Any, engine: Any) -> None:
    from lightning_lrsched.trainer.deepspeed import EngineClock

    EngineClock(engine).follow(scheduler)
