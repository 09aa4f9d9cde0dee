"""What a checkpoint says about the schedules: checked, and put in the order in which Lightning restores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.state import is_own_state

KEY = "lightning_lrsched"
"""Our entry in a checkpoint."""

Checkpoint = dict[str, Any]


def mark(checkpoint: Checkpoint, schedulers: Mapping[int, LRScheduler], configs: list[Any]) -> None:
    """Note in ``checkpoint`` which of its scheduler states are ours: pairs of place and index of the optimizer."""
    places = {id(config.scheduler): place for place, config in enumerate(configs)}
    pairs = [[places[id(scheduler)], index] for index, scheduler in schedulers.items() if id(scheduler) in places]
    checkpoint.setdefault(KEY, {"places": []})["places"] += pairs


def arrange(
    checkpoint: Checkpoint, schedulers: Mapping[int, LRScheduler], optimizers: list[Optimizer], others: int
) -> None:
    """Arrange ``checkpoint["lr_schedulers"]`` so that each scheduler is given its own state.

    Lightning pairs states and schedulers by their order alone. A checkpoint from before the callback was added, or
    with other schedulers, would leave ours at step 0 or give it a stranger's position, without a word.

    Args:
        checkpoint: as it was loaded; changed in place.
        schedulers: the callback's own, by the index of their optimizer, in the order in which Lightning has them.
        optimizers: the trainer's.
        others: number of schedulers that come before these.

    Raises:
        ValueError: if the checkpoint has other optimizers or other schedulers of the module, or if it tells neither
            the position of a schedule nor the number of steps that its optimizer has made.
    """
    if "lr_schedulers" not in checkpoint:
        return  # only weights: Lightning refuses it
    ours = _take_ours(checkpoint, len(optimizers))
    strangers = checkpoint["lr_schedulers"]
    if others and len(strangers) != others:
        raise ValueError(
            f"the checkpoint holds the state of {len(strangers)} schedulers besides those of LRSchedulerCallback, but"
            f" the module now has {others}: Lightning would give them each other's state"
        )
    states = [
        _state_of(index, scheduler, ours.get(index), checkpoint, len(optimizers))
        for index, scheduler in schedulers.items()
    ]
    checkpoint["lr_schedulers"] = strangers[:others] + states


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


def _take_ours(checkpoint: Checkpoint, optimizers: int) -> dict[int, Any]:
    """Take our states out of ``checkpoint["lr_schedulers"]`` and return them by the index of their optimizer."""
    entry = checkpoint.setdefault(KEY, {})
    if "states" not in entry:  # else another LRSchedulerCallback of this trainer has done it already
        states = checkpoint["lr_schedulers"]
        if "places" in entry:
            indices = {place: index for place, index in entry["places"] if place < len(states)}
        else:
            # Saved without the callback; a module with configure_optimizers saved the same kind of state.
            places = [place for place, state in enumerate(states) if is_own_state(state)]
            indices = {place: index for index, place in enumerate(places)} if len(places) == optimizers else {}
        entry["states"] = {index: states[place] for place, index in indices.items()}
        checkpoint["lr_schedulers"] = [state for place, state in enumerate(states) if place not in indices]
    return dict(entry["states"])


def _state_of(index: int, scheduler: LRScheduler, state: Any, checkpoint: Checkpoint, optimizers: int) -> Any:
    """Return the state to restore ``scheduler`` from: the saved one, or one with the position that can be told."""
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
    if state is not None:
        position = state["last_epoch"]
    elif scheduler.last_epoch > 0:
        return {"last_epoch": scheduler.last_epoch}  # the configuration says it, with last_batch_iteration
    else:
        position = _finished_steps(index, checkpoint, optimizers, name)
    if position:
        rank_zero_warn(
            f"LRSchedulerCallback: the checkpoint was saved without {name} for optimizer {index}; the schedule"
            f" continues from step {position}, the number of optimizer steps that the checkpoint tells"
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
        f"the checkpoint was saved without {name} for optimizer {index}, and it does not tell how many steps that"
        f" optimizer has made, only that {optimizers} optimizers made {checkpoint['global_step']} together; say it"
        " with last_batch_iteration (the number of steps minus one) among the schedule's params"
    )
