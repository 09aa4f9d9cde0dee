"""Callbacks of Lightning that set a learning rate themselves: never together with a schedule."""

from __future__ import annotations

from typing import Any

from lightning_lrsched.trainer.protocol import callbacks_named

RIVALS = {
    "StochasticWeightAveraging": "WeightAveraging averages the weights without touching the lr",
    "LearningRateFinder": "LRRangeTestCallback finds an lr, in a fit of its own",
}
"""Class -> what to use beside a schedule."""


def refuse_rivals(trainer: Any, owner: str) -> None:
    """Raise ValueError where a callback of ``trainer`` sets the lr too; to be called before any of them begins."""
    if callbacks_named(trainer, "LRRangeTestCallback"):
        return  # sets all of them aside, the schedule too
    for name, instead in RIVALS.items():
        if callbacks_named(trainer, name):
            raise ValueError(f"{owner}: {name} sets the lr of the same optimizer; use only one of them ({instead})")
