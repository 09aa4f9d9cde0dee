"""Lengths and learning rates that depend on the training run: "auto", 0.1 of the run, "2ep" -> optimizer steps.

What ``"auto"`` (in any case) stands for:

======================== ===================================================================
key                      "auto"
======================== ===================================================================
total_num_steps          the whole run
warmup_num_steps         a tenth of the run
cycle_first_step_size    three tenths of the run
cycle_second_step_size   six tenths of the run
decay_step_size          a tenth of the run
lr_range_test_step_size  a hundredth of the run
num_steps (LRRangeTest)  the whole run
warmup_max_lr            each param group's own lr, as the optimizer has it
warmup_min_lr            0
cycle_max_lr             each param group's own lr, as the optimizer has it
cycle_min_lr             a tenth of cycle_max_lr
======================== ===================================================================

Hugging Face's "auto" differs in one thing: without a warmup in its arguments it gives ``warmup_num_steps`` 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_lrsched.schedulers.checks import to_number

AUTO_SHARES = {
    "total_num_steps": 1.0,
    "warmup_num_steps": 0.1,
    "cycle_first_step_size": 0.3,
    "cycle_second_step_size": 0.6,
    "decay_step_size": 0.1,
    "lr_range_test_step_size": 0.01,
    "num_steps": 1.0,
}
AUTO_LRS = ("warmup_min_lr", "warmup_max_lr", "cycle_min_lr", "cycle_max_lr")
AUTO_MIN_LR_FACTOR = 0.1

EPOCHS = re.compile(r" *(\d+\.?\d*|\.\d+) *(ep|epochs?) *", re.IGNORECASE | re.ASCII)


WHERE_FROM = "the length of the run is not known here: pass trainer=..., or write a number of optimizer steps"


@dataclass(frozen=True)
class RunLength:
    """The length of a training run, or the reason why it is not known.

    Args:
        total_steps: length of the whole run [optimizer steps]; None: not known.
        steps_per_epoch: optimizer steps in one epoch; None: not known.
        why_no_total: what makes the total unknown, and the Trainer's flag or the value that would help.
        why_no_epoch: the same for the epoch.

    Example:
        >>> RunLength(total_steps=1000, steps_per_epoch=100).total_steps
        1000
    """

    total_steps: int | None = None
    steps_per_epoch: int | None = None
    why_no_total: str = WHERE_FROM
    why_no_epoch: str = WHERE_FROM


@dataclass(frozen=True)
class Duration:
    """A number of optimizer steps that only the run can tell: a share of it, or a number of its epochs."""

    share: float | None = None
    epochs: float | None = None

    @classmethod
    def of(cls, key: str, value: Any) -> Duration | None:
        """Return what ``value`` asks for under ``key``; None if it needs no run to be understood.

        >>> Duration.of("warmup_num_steps", "2ep"), Duration.of("warmup_num_steps", 0.1)
        (Duration(share=None, epochs=2.0), Duration(share=0.1, epochs=None))
        >>> Duration.of("warmup_num_steps", 100), Duration.of("cycle_min_lr", 0.1)
        (None, None)
        """
        if key not in AUTO_SHARES:
            return None
        if is_auto(value):
            return cls(share=AUTO_SHARES[key])
        if isinstance(value, str):
            epochs = EPOCHS.fullmatch(value)
            if epochs:
                return cls(epochs=float(epochs[1]))
            value = to_number(value)
        return cls(share=value) if isinstance(value, float) and 0 < value < 1 else None

    def steps(self, run: RunLength) -> int:
        """Return the number of optimizer steps, at least one.

        Raises:
            ValueError: if the run does not tell its length.
        """
        if self.epochs is not None:
            if run.steps_per_epoch is None:
                raise ValueError(f"needs to know how long an epoch is, but {run.why_no_epoch}")
            steps = self.epochs * run.steps_per_epoch
        else:
            if run.total_steps is None:
                raise ValueError(f"needs to know how long the run is, but {run.why_no_total}")
            steps = (self.share or 0.0) * run.total_steps
        return max(1, round(steps))


def is_auto(value: Any) -> bool:
    """Tell whether ``value`` is the word auto, in any case."""
    return isinstance(value, str) and value.strip().lower() == "auto"


def resolve_steps(key: str, value: Any, run: RunLength) -> Any:
    """Return the number of optimizer steps that ``value`` means; a value that is no duration, unchanged.

    Args:
        key: name of the hyperparameter.
        value: its value as it was written.
        run: how long the run is; asked only where ``value`` depends on it.

    Raises:
        ValueError: if the run does not tell its length; the message names the key and the remedy.
    """
    duration = Duration.of(key, value)
    if duration is None:
        return value
    try:
        return duration.steps(run)
    except ValueError as error:
        raise ValueError(f"{key}={value!r} {error}") from None


def resolve(params: Mapping[str, Any], run: RunLength, own_lrs: Sequence[float]) -> dict[str, Any]:
    """Return ``params`` with numbers for everything that depends on the run or on the optimizer.

    Args:
        params: hyperparameters by name.
        run: how long the run is.
        own_lrs: the learning rate of each of the optimizer's param groups.

    Raises:
        ValueError: if the run does not tell its length; the message names the key and the remedy.

    Example:
        >>> params = {"warmup_num_steps": "auto", "warmup_max_lr": "auto", "total_num_steps": "3ep"}
        >>> resolve(params, RunLength(total_steps=50, steps_per_epoch=10), own_lrs=[0.1])
        {'warmup_num_steps': 5, 'warmup_max_lr': 0.1, 'total_num_steps': 30}
    """
    return resolve_lrs({key: resolve_steps(key, value, run) for key, value in params.items()}, own_lrs)


def resolve_lrs(params: Mapping[str, Any], own_lrs: Sequence[float]) -> dict[str, Any]:
    """Return ``params`` with numbers for learning rates that are ``"auto"``; lengths stay as they are."""
    resolved = dict(params)
    own = own_lrs[0] if len(set(own_lrs)) == 1 else tuple(own_lrs)
    for key in ("warmup_max_lr", "cycle_max_lr"):
        if is_auto(params.get(key)):
            resolved[key] = own
    if is_auto(params.get("warmup_min_lr")):
        resolved["warmup_min_lr"] = 0.0
    if is_auto(params.get("cycle_min_lr")):
        high = resolved.get("cycle_max_lr", own)
        listed = isinstance(high, (list, tuple))
        resolved["cycle_min_lr"] = tuple(map(_low, high)) if listed else _low(high)
    return resolved


def _low(high: Any) -> Any:
    return high * AUTO_MIN_LR_FACTOR if isinstance(high, (int, float)) and math.isfinite(high) else high


def is_auto_lr(key: str, value: Any) -> bool:
    """Tell whether ``value`` is a learning rate that the optimizer tells."""
    return key in AUTO_LRS and is_auto(value)
