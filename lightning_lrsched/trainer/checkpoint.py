"""Schedules in a checkpoint: for each scheduler of a Trainer, the state to restore it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.optim.scheduled_lr import ScheduledLR, is_own_state, position_in
from lightning_lrsched.range_test.probe import ProbeResult
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.schedules.errors import count
from lightning_lrsched.schedules.length import STEPS
from lightning_lrsched.trainer.attach import Idle
from lightning_lrsched.trainer.protocol import Checkpoint

KEY = "lightning_lrsched"
"""Our entry in a checkpoint."""

Schedules = Mapping[int, LRScheduler]
"""Index of an optimizer -> the scheduler that a callback has attached to it."""

Found = dict[int, RangeTestResult | ProbeResult]
"""Index of an optimizer -> what a range test or a probe at the start of the fit has found for it."""


def mark(
    checkpoint: Checkpoint,
    schedules: Schedules,
    configs: list[LRSchedulerConfig],
    found: Found,
    rates: Mapping[int, float],
) -> None:
    """Record in ``checkpoint`` which of its scheduler states are ours, and what range tests and probes have found.

    Args:
        checkpoint: what is about to be saved.
        schedules: those that a callback has attached.
        configs: the Trainer's LRSchedulerConfigs, in Lightning's order.
        found: the results of the range tests and probes at the start of the fit.
        rates: how many of the steps that were due they have seen each optimizer make.
    """
    places = {id(config.scheduler): place for place, config in enumerate(configs)}
    entry = checkpoint.setdefault(KEY, {"places": []})
    entry["places"] += [[places[id(ours)], index] for index, ours in schedules.items() if id(ours) in places]
    for index, result in found.items():
        kind = "probes" if isinstance(result, ProbeResult) else "range_tests"
        entry.setdefault(kind, {})[index] = result.to_dict()
    if rates:
        entry.setdefault("rates", {}).update(rates)


def saved_findings(checkpoint: Checkpoint) -> Found:
    """Return what range tests and probes had found when ``checkpoint`` was saved."""
    entry = _entry_in(checkpoint)
    tests: Found = {index: RangeTestResult.from_dict(each) for index, each in entry.get("range_tests", {}).items()}
    return tests | {index: ProbeResult.from_dict(each) for index, each in entry.get("probes", {}).items()}


def saved_rates(checkpoint: Checkpoint) -> dict[int, float]:
    """Return how many of the steps that were due each optimizer made in its range test or probe."""
    return dict(_entry_in(checkpoint).get("rates", {}))


def _entry_in(checkpoint: Checkpoint) -> Checkpoint:
    """Return our entry in a checkpoint.

    Raises:
        ValueError: if it has another shape than :func:`mark` gives it.
    """
    entry: Checkpoint = checkpoint.get(KEY, {})
    try:
        pairs = [(place, index) for place, index in entry.get("places", [])]
        ok = all(isinstance(number, int) for pair in pairs for number in pair)
        records = [*entry.get("range_tests", {}).values(), *entry.get("probes", {}).values()]
        ok &= all(isinstance(record, Mapping) for record in records)
        ok &= all(isinstance(rate, float) and rate > 0 for rate in entry.get("rates", {}).values())
    except (AttributeError, TypeError, ValueError):
        ok = False
    if not ok:
        raise ValueError(f"the checkpoint's entry {KEY!r} is not as it was saved: {str(entry)[:200]}")
    return entry


class SavedSchedules:
    """The states of the schedulers in a checkpoint.

    Lightning pairs states and schedulers by their order alone. A checkpoint from before a callback was added, or
    with other schedulers, would silently leave ours at step 0 or give it the position of another.

    Args:
        checkpoint: as it was loaded.
        optimizers: the Trainer's.

    Attributes:
        ours: index of an optimizer -> the state of the schedule that a callback had attached to it.
        others: the states of the module's own schedulers, in their order.
    """

    def __init__(self, checkpoint: Checkpoint, optimizers: Sequence[Optimizer]) -> None:
        self._checkpoint, self._optimizers = checkpoint, optimizers
        states, entry = checkpoint.get("lr_schedulers", []), _entry_in(checkpoint)
        if "places" in entry:
            index_at = {place: index for place, index in entry["places"] if place < len(states)}
        else:
            # Saved without the callback; a module with configure_optimizers saved the same kind of state.
            places = [place for place, state in enumerate(states) if is_own_state(state)]
            index_at = {place: index for index, place in enumerate(places)} if len(places) == len(optimizers) else {}
        self.ours: dict[int, Checkpoint] = {index: states[place] for place, index in index_at.items()}
        self.others = [state for place, state in enumerate(states) if place not in index_at and state]

    def position(self, index: int) -> int:
        """Return the position of the schedule of optimizer ``index``; 0 where it has none."""
        state: Any = self.ours.get(index)
        return position_in(state, "the checkpoint") if is_own_state(state) else 0

    def check_optimizers(self, *, groups_may_come: bool) -> None:
        """Raise ValueError where the checkpoint was saved with another number of optimizers or of param groups.

        Args:
            groups_may_come: whether another callback may still add the param groups that are missing.
        """
        states, optimizers = self._checkpoint.get("optimizer_states"), self._optimizers
        if states and len(states) != len(optimizers):
            raise ValueError(
                f"the checkpoint holds the state of {len(states)} optimizers, but the module has {len(optimizers)}:"
                " Lightning would leave some of them, and their schedules, at the beginning"
            )
        for index, (state, optimizer) in enumerate(zip(states or (), optimizers, strict=False)):
            saved, now = len(state.get("param_groups", optimizer.param_groups)), len(optimizer.param_groups)
            if saved != now and not groups_may_come:
                raise ValueError(
                    f"the checkpoint holds {saved} param groups for optimizer {index}, but it has {now} now: make the"
                    " same groups in configure_optimizers as when the checkpoint was saved"
                )

    def states_for(
        self, configs: list[LRSchedulerConfig], schedules: Schedules, finished: int | None = None
    ) -> list[Checkpoint]:
        """Return the state from which to restore each scheduler of a Trainer.

        Args:
            configs: the Trainer's LRSchedulerConfigs, in Lightning's order.
            schedules: those that our callbacks have attached.
            finished: steps that the only optimizer has made, where that is known without the checkpoint.

        Raises:
            ValueError: if the checkpoint has other schedulers of the module, or holds neither the position of a
                schedule nor the number of steps that its optimizer has made.
        """
        index_of = {id(scheduler): index for index, scheduler in schedules.items()}
        expected = sum(id(each.scheduler) not in index_of and not isinstance(each.scheduler, Idle) for each in configs)
        if expected and len(self.others) != expected:
            raise ValueError(
                f"the checkpoint holds the state of {len(self.others)} schedulers besides those of LRSchedulerCallback,"
                f" but the module now has {expected}: Lightning would give them the wrong states"
            )
        states: list[Checkpoint] = []
        rest = iter(self.others)
        for scheduler in (config.scheduler for config in configs):
            index = index_of.get(id(scheduler))
            if isinstance(scheduler, Idle):
                states.append({})
            elif index is not None and isinstance(scheduler, ScheduledLR):
                states.append(self._state_of(index, scheduler, finished))
            else:
                states.append(next(rest))
        return states

    def _state_of(self, index: int, scheduler: ScheduledLR, finished: int | None) -> Checkpoint:
        """Return the state to restore ``scheduler`` from: the saved one, or one with the position that can be known."""
        name, state = scheduler.name, self.ours.get(index)
        if state and is_own_state(state):
            return state
        if not state and scheduler.last_epoch > 0:  # given in the configuration, as last_batch_iteration
            return {"last_epoch": scheduler.last_epoch, "unit": scheduler.unit}
        if scheduler.unit != STEPS:
            raise ValueError(
                f"the checkpoint was saved without {name} for optimizer {index}, and does not hold how many"
                f" {scheduler.unit}s that optimizer has been trained with; give the number minus one as"
                " last_batch_iteration among the schedule's params"
            )
        if state and not isinstance(state, Mapping):
            raise ValueError(f"the checkpoint's state of {name} must be a mapping, got {type(state).__name__}")
        if state:  # of a scheduler of torch's that an earlier version of the callback had made
            position = count("last_epoch", state.get("last_epoch"))
        else:
            position = self._finished_steps(index, name) if finished is None else finished
        if position:
            rank_zero_warn(
                f"LRSchedulerCallback: the checkpoint was saved without {name} for optimizer {index}; the schedule"
                f" continues from step {position}, the number of optimizer steps in the checkpoint"
            )
        return {"last_epoch": position}

    def _finished_steps(self, index: int, name: str) -> int:
        # Most optimizers count their own steps, without those that a gradient scaler skipped. The count of a parameter
        # that had no gradient for a while lags behind.
        states, steps = self._checkpoint.get("optimizer_states") or [], self._checkpoint["global_step"]
        of_params = states[index].get("state", {}).values() if index < len(states) else ()
        counts = [int(state["step"]) for state in of_params if isinstance(state, Mapping) and "step" in state]
        if counts or len(self._optimizers) == 1 or not steps:
            return max(counts, default=int(steps))
        raise ValueError(
            f"the checkpoint was saved without {name} for optimizer {index}, and it does not hold how many steps that"
            f" optimizer has made, only that {len(self._optimizers)} optimizers made {steps} together; give it as"
            " last_batch_iteration (the number of steps minus one) among the schedule's params"
        )
