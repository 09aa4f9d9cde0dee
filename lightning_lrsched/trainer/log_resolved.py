# ruff: noqa: PLC0414
"""Moved to reporting.py; until the last importer has moved."""

from lightning_lrsched.trainer.reporting import log as log
