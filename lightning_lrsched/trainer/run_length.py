"""Moved to horizon.py; until the last importer has moved."""

from lightning_lrsched.trainer.horizon import horizon_of as run_length_of

__all__ = ["run_length_of"]
