"""Schedules in a checkpoint: for each scheduler of a Trainer, the state to restore it from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.range_test.result import RangeTestResult
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.durations import STEPS
from lightning_lrsched.schedulers.state import is_own_state, position_in

KEY = "lightning_lrsched"
"""Our entry in a checkpoint."""

Checkpoint = Mapping[str, Any]
Schedules = Mapping[int, LRScheduler]
"""Index of an optimizer -> the scheduler that a callback has attached to it."""

Tests = dict[int, RangeTestResult]
"""Index of an optimizer -> what a range test at the start of the fit has found for it."""


def mark(checkpoint: dict[str, Any], schedules: Schedules, configs: list[Any], tests: Tests) -> None:
    """Record in ``checkpoint`` which of its scheduler states are ours, and what range tests have found.

    Args:
        checkpoint: what is about to be saved.
        schedules: those that a callback has attached.
        configs: the Trainer's LRSchedulerConfigs, in Lightning's order.
        tests: the results of the range tests at the start of the fit.
    """
    places = {id(config.scheduler): place for place, config in enumerate(configs)}
    pairs = [[places[id(scheduler)], index] for index, scheduler in schedules.items() if id(scheduler) in places]
    entry = checkpoint.setdefault(KEY, {"places": []})
    entry["places"] += pairs
    if tests:
        entry.setdefault("range_tests", {}).update({index: result.to_dict() for index, result in tests.items()})


def saved_tests(checkpoint: Checkpoint) -> Tests:
    """Return what range tests had found when ``checkpoint`` was saved."""
    records = checkpoint.get(KEY, {}).get("range_tests", {})
    return {index: RangeTestResult.from_dict(record) for index, record in records.items()}


def states_for(
    configs: list[Any],
    schedules: Schedules,
    checkpoint: Checkpoint,
    optimizers: list[Optimizer],
    finished: int | None = None,
) -> list[Any]:
    """Return the state from which to restore each scheduler of a Trainer.

    Lightning pairs states and schedulers by their order alone. A checkpoint from before a callback was added, or
    with other schedulers, would silently leave ours at step 0 or give it the position of another.

    Args:
        configs: the Trainer's LRSchedulerConfigs, in Lightning's order.
        schedules: those that our callbacks have attached.
        checkpoint: as it was loaded, with ``lr_schedulers``.
        optimizers: the Trainer's.
        finished: steps that the only optimizer has made, where that is known without the checkpoint.

    Raises:
        ValueError: if the checkpoint has other schedulers of the module, or holds neither the position of a schedule
            nor the number of steps that its optimizer has made.
    """
    ours, others = _split(checkpoint, len(optimizers))
    index_of = {id(scheduler): index for index, scheduler in schedules.items()}
    expected = len(configs) - len(schedules)
    if expected and len(others) != expected:
        raise ValueError(
            f"the checkpoint holds the state of {len(others)} schedulers besides those of LRSchedulerCallback, but"
            f" the module now has {expected}: Lightning would give them each other's state"
        )
    rest = iter(others)
    states = []
    for config in configs:
        index = index_of.get(id(config.scheduler))
        if index is None:
            states.append(next(rest))
        else:
            states.append(_state_of(index, config.scheduler, ours.get(index), checkpoint, len(optimizers), finished))
    return states


def saved_position(checkpoint: Checkpoint, index: int, optimizers: int) -> int:
    """Return the position of the schedule of optimizer ``index`` in a checkpoint; 0 where it has none."""
    state = _split(checkpoint, optimizers)[0].get(index) if "lr_schedulers" in checkpoint else None
    return position_in(state, "the checkpoint") if state is not None and is_own_state(state) else 0


def check_optimizers(checkpoint: Checkpoint, optimizers: list[Optimizer], *, groups_may_come: bool) -> None:
    """Raise ValueError where ``checkpoint`` was saved with another number of optimizers or of param groups.

    Args:
        checkpoint: as it was loaded.
        optimizers: the trainer's.
        groups_may_come: whether another callback may still add the param groups that are missing.
    """
    states = checkpoint.get("optimizer_states")
    if not states:
        return
    if len(states) != len(optimizers):
        raise ValueError(
            f"the checkpoint holds the state of {len(states)} optimizers, but the module has {len(optimizers)}:"
            " Lightning would leave some of them, and their schedules, at the beginning"
        )
    for index, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        saved, now = len(state.get("param_groups", optimizer.param_groups)), len(optimizer.param_groups)
        if saved != now and not groups_may_come:
            raise ValueError(
                f"the checkpoint holds {saved} param groups for optimizer {index}, but it has {now} now: make the same"
                " groups in configure_optimizers as when the checkpoint was saved"
            )


def _split(checkpoint: Checkpoint, optimizers: int) -> tuple[dict[int, Any], list[Any]]:
    """Return our states by the index of their optimizer, and the others in their order."""
    states = checkpoint["lr_schedulers"]
    if "places" in checkpoint.get(KEY, {}):
        index_at = {place: index for place, index in checkpoint[KEY]["places"] if place < len(states)}
    else:
        # Saved without the callback; a module with configure_optimizers saved the same kind of state.
        places = [place for place, state in enumerate(states) if is_own_state(state)]
        index_at = {place: index for index, place in enumerate(places)} if len(places) == optimizers else {}
    ours = {index: states[place] for place, index in index_at.items()}
    return ours, [state for place, state in enumerate(states) if place not in index_at]


def _state_of(
    index: int, scheduler: LRScheduler, state: Any, checkpoint: Checkpoint, optimizers: int, finished: int | None
) -> Any:
    """Return the state to restore ``scheduler`` from: the saved one, or one with the position that can be known."""
    name = type(scheduler).__name__
    if not isinstance(scheduler, ClosedFormLR):
        if state is None or is_own_state(state):
            raise ValueError(
                f"the checkpoint holds no state for {name} of optimizer {index}: a scheduler of torch's own cannot"
                " begin in the middle of a run; one of this package's can"
            )
        return state
    if state is not None and is_own_state(state):
        return state
    if state is None and scheduler.last_epoch > 0:  # given in the configuration, as last_batch_iteration
        return {"last_epoch": scheduler.last_epoch, "unit": scheduler.unit}
    if scheduler.unit != STEPS:
        raise ValueError(
            f"the checkpoint was saved without {name} for optimizer {index}, and does not hold how many"
            f" {scheduler.unit}s that optimizer has been trained with; give the number minus one as"
            " last_batch_iteration among the schedule's params"
        )
    if state is not None:
        position = state["last_epoch"]
    else:
        position = _finished_steps(index, checkpoint, optimizers, name) if finished is None else finished
    if position:
        rank_zero_warn(
            f"LRSchedulerCallback: the checkpoint was saved without {name} for optimizer {index}; the schedule"
            f" continues from step {position}, the number of optimizer steps in the checkpoint"
        )
    return {"last_epoch": position}


def _finished_steps(index: int, checkpoint: Checkpoint, optimizers: int, name: str) -> int:
    # Most optimizers count their own steps, without those that a gradient scaler skipped. The count of a parameter that
    # had no gradient for a while lags behind.
    states = checkpoint.get("optimizer_states") or []
    of_params = states[index].get("state", {}).values() if index < len(states) else ()
    counts = [int(state["step"]) for state in of_params if isinstance(state, Mapping) and "step" in state]
    if counts:
        return max(counts)
    if optimizers == 1 or not checkpoint["global_step"]:
        return int(checkpoint["global_step"])
    raise ValueError(
        f"the checkpoint was saved without {name} for optimizer {index}, and it does not hold how many steps that"
        f" optimizer has made, only that {optimizers} optimizers made {checkpoint['global_step']} together; give it"
        " as last_batch_iteration (the number of steps minus one) among the schedule's params"
    )
