"""Reading a saved state: the position, and the hyperparameters that have changed since."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_lrsched.schedulers.checks import count
from lightning_lrsched.schedulers.durations import STEPS
from lightning_lrsched.schedulers.paths import flatten


def is_own_state(state: Any) -> bool:
    """Return whether ``state`` is what ``state_dict`` of a schedule of this package returned."""
    return isinstance(state, dict) and "hyperparameters" in state


def position_in(state: Mapping[str, Any], name: str) -> int:
    """Return the number of finished optimizer steps in a saved state; DeepSpeed's own state is accepted too.

    Raises:
        ValueError: if there is no position, or the state comes from a scheduler of another package, whose position may
            count epochs. ``name`` is that of the schedule that loads it.
    """
    if "last_epoch" in state and not any(key.startswith("_") for key in state):
        return count("last_epoch", state["last_epoch"], at_least=-1)
    if "last_batch_iteration" in state:
        return count("last_batch_iteration", state["last_batch_iteration"], at_least=-1) + 1
    if "last_epoch" in state:
        raise ValueError(
            f"{name}: the saved state is that of another scheduler (it has the keys {', '.join(state)}), whose position"
            " may count epochs; load {'last_epoch': the number of finished optimizer steps} instead, or let"
            " LRSchedulerCallback find the position"
        )
    raise ValueError(f"{name}: no 'last_epoch' in the saved state, got keys {list(state)}")


def check_unit(state: Mapping[str, Any], unit: str, name: str) -> None:
    """Raise ValueError where the position in a saved state does not count what the schedule ``name`` counts."""
    saved = state.get("unit", STEPS)
    if saved != unit:
        raise ValueError(
            f"{name}: the saved position counts {saved}s, and the schedule now counts {unit}s: one does not follow from"
            f' the other; go on with "unit": "{saved}"'
        )


def changes_since(saved: Mapping[str, Any], now: Mapping[str, Any], own_lrs: list[float] | None) -> list[str]:
    """Return ``key: old -> new`` for everything that the values depend on and that has changed since the save.

    Args:
        saved: a state as ``state_dict`` returned it.
        now: the same for the current schedule.
        own_lrs: the optimizer's own lrs, where the values depend on them.
    """
    if not saved.get("hyperparameters"):
        return []
    before, after = flatten(saved["hyperparameters"]), flatten(now["hyperparameters"])
    if "type" in saved and saved["type"] != now["type"]:
        before, after = {"type": saved["type"]}, {"type": now["type"]}
    # Groups that are added while training continues have no counterpart.
    pairs = zip(saved.get("own_lrs") or [], own_lrs or [], strict=False)
    if any(not math.isclose(old, new, rel_tol=1e-6) for old, new in pairs):
        before["the optimizer's lr"], after["the optimizer's lr"] = saved["own_lrs"], own_lrs
    keys = {**after, **before}  # also those of a phase that there is no more
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys if before.get(key) != after.get(key)]
