"""The configurations that a range test leads to: 1Cycle between its bounds, warmup and decay around its suggestion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_lrsched.schedulers.checks import count

MIN_STEPS = 10
"""[optimizer steps] Shorter trainings have no room for the phases of a schedule."""


def one_cycle(
    low: Any, high: Any, ratios: Sequence[float], total_num_steps: int | None, cycle_momentum: bool
) -> dict[str, Any]:
    """Return a OneCycle configuration; lengths are fractions of the run where ``total_num_steps`` is None.

    ``low`` and ``high`` are numbers, or ``"lr_range_test"`` for those that a test is still to find.
    """
    first, second, decay = _one_cycle_lengths(total_num_steps)
    params: dict[str, Any] = {
        "cycle_min_lr": for_groups(low, ratios),
        "cycle_max_lr": for_groups(high, ratios),
        "cycle_first_step_size": first,
        "cycle_second_step_size": second,
        "decay_step_size": decay,
        "decay_lr_rate": 99.0,
        "cycle_momentum": cycle_momentum,
    }
    if cycle_momentum:
        params.update(cycle_min_mom=0.85, cycle_max_mom=0.95)
    return {"type": "OneCycle", "params": params}


def _one_cycle_lengths(total_num_steps: int | None) -> tuple[float, float, float]:
    if total_num_steps is None:
        return 0.3, 0.6, 0.1
    total = count("total_num_steps", total_num_steps, at_least=MIN_STEPS)
    first, decay = round(0.3 * total), round(0.1 * total)
    return first, total - first - decay, decay


def warmup_decay(lr: float, ratios: Sequence[float], total_num_steps: int | None) -> dict[str, Any]:
    """Return a WarmupDecayLR configuration; lengths are fractions of the run where ``total_num_steps`` is None."""
    total, warmup = _warmup_decay_lengths(total_num_steps)
    params = {
        "total_num_steps": total,
        "warmup_min_lr": for_groups(0.0, ratios),
        "warmup_max_lr": for_groups(lr, ratios),
        "warmup_num_steps": warmup,
        "warmup_type": "linear",
    }
    return {"type": "WarmupDecayLR", "params": params}


def _warmup_decay_lengths(total_num_steps: int | None) -> tuple[int | str, float]:
    if total_num_steps is None:
        return "auto", 0.1
    total = count("total_num_steps", total_num_steps, at_least=MIN_STEPS)
    return total, round(0.1 * total)


def for_groups(lr: float, ratios: Sequence[float]) -> float | list[float]:
    """Return one lr, or one for each param group where their ratios differ."""
    return lr if len(set(ratios)) == 1 else [lr * ratio for ratio in ratios]
