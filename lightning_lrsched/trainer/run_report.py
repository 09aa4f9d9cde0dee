# ruff: noqa: PLC0414
"""Moved to reporting.py; until the last importer has moved."""

from lightning_lrsched.trainer.reporting import store_hyperparameters as store_hyperparameters
