# ruff: noqa: D103, PLC0414, PLC0415
"""Moved to reporting.py; until the last importer has moved."""

from lightning_lrsched.trainer.reporting import log as log
