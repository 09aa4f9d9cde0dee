"""ScheduledLR: a schedule on an optimizer, as a torch LRScheduler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.optim.clock import Clock, warn
from lightning_lrsched.optim.hyperparameters import (
    BUFFER_FOR_EACH_BETA,
    LR,
    MOMENTUM,
    Binding,
    Group,
    check_lrs,
    has_momentum,
    holds_lrs,
    numbers_of,
    read,
    read_lrs,
    torch_optimizer,
    write,
)
from lightning_lrsched.schedules.errors import ParameterValueError, count, did_you_mean
from lightning_lrsched.schedules.fields import Params
from lightning_lrsched.schedules.length import STEPS, Unit
from lightning_lrsched.schedules.schedule import Schedule, Values

SCALE = "lr_scale"
"""The key of a param group whose lr is this multiple of what the schedule says (timm's name for it)."""

UNCOPIED = ("_clock", "_binding", "_values", "_at", "_written", "_step_uncompiled")
"""Attributes that belong to one optimizer: a copy binds anew."""


class ScheduledLR(LRScheduler):
    """A :class:`~lightning_lrsched.schedules.schedule.Schedule` that sets the hyperparameters of an optimizer.

    All values follow from ``step``, the number of optimizer steps finished so far: 0 for the first batch; it is torch's
    ``last_epoch`` and DeepSpeed's ``last_batch_iteration + 1``.

    There are two ways to drive it. In a plain torch loop call :meth:`step` after ``optimizer.step()``. Or call
    :meth:`follow_optimizer` once: then the schedule advances when the optimizer itself has stepped, and calls of
    :meth:`step` change nothing, so that no step is counted twice.

    In a ChainedScheduler, most schedulers multiply the current lr; this one sets it, whatever those before it did. The
    lr of a param group with the key ``lr_scale`` is that multiple of the schedule's.

    Args:
        optimizer: the optimizer whose hyperparameters are scheduled.
        schedule: what they are; nothing in it waits for the run or a range test any more.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.
        unit: what the position counts.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a list is not as long as the optimizer's param groups, a low end lies above its high end, or the
            optimizer lacks a hyperparameter.

    Example:
        >>> from lightning_lrsched.schedules.warmup import Warmup
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.001)
        >>> scheduled = ScheduledLR(optimizer, Warmup.parse({"warmup_num_steps": 4}))
        >>> scheduled.schedule.warmup_num_steps, scheduled.values_at(2)
        (4, {'lr': [0.0005]})
    """

    # Binding to the optimizer ----------------------------------------------------------------------------------------

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, last_batch_iteration: int = -1, unit: Unit = STEPS
    ) -> None:
        # torch's own __init__ wraps optimizer.step and costs more per step than the schedule itself; everything
        # that SequentialLR, ChainedScheduler and Lightning rely on is set up here.
        self.optimizer = torch_optimizer(optimizer)
        self.last_epoch = count("last_batch_iteration", last_batch_iteration, at_least=-1) + 1
        self.schedule = schedule
        self.unit = unit
        self._amount: Callable[[], int] | None = None
        self._own: dict[int, tuple[Any, dict[str, float]]] = {}
        self.base_lrs: list[float | Tensor] = []
        # Determined once: a cycle that goes down to 0 would later look like an optimizer without momentum.
        self._cycles_momentum = has_momentum(self.optimizer)
        self._values: Values
        self._binding: Binding | None = None
        self._step_uncompiled: Any = None
        self.set_position(self.last_epoch)
        # Not with tensors: the optimizer step may be compiled, and the hook would be compiled with it.
        self._clock = Clock(self, watch=self._step_uncompiled is None)
        without_momentum = None if self._cycles_momentum else type(self.optimizer).__name__
        for remark in schedule.remarks(list(map(float, self.base_lrs)), without_momentum):
            warn(
                remark, stacklevel=5
            )  # the line that makes one of the public classes, whose keywords are looked at first

    @property
    def name(self) -> str:
        """The type of the schedule, as configurations and messages have it."""
        return self.schedule.type

    def _bound(self) -> Binding:
        """Return the binding to the optimizer's current param groups."""
        binding, groups = self._binding, self.optimizer.param_groups
        return binding if binding and binding.groups is groups and binding.size == len(groups) else self._bind()

    def _bind(self) -> Binding:
        """Bind to the optimizer's param groups: at construction, after its state was loaded, when groups changed."""
        groups = self.optimizer.param_groups
        check_lrs(self.optimizer)
        names = {LR, *self.schedule.own_names}
        # The values of known groups were fixed at construction: a loaded checkpoint must not bring back old ones.
        # A group that was removed is forgotten: it may come back with another lr.
        own: dict[int, tuple[Any, dict[str, float]]] = {}
        held, of_groups, new = [], [], []
        for number, group in enumerate(groups):
            key, numbers = _identity(number, group), numbers_of(group)
            held.append(numbers)
            if key in self._own:
                own[key] = self._own[key]
            elif key not in own:
                self._check_new(group)
                own[key] = group["params"][:1], self._own_values(group, numbers)
                new.append((group, own[key][1]))
            of_groups.append(own[key][1])
        check_names(self.schedule, type(self.optimizer).__name__, held)
        # A momentum that an optimizer lacks is not written.
        values = self.schedule.values({name: [known.get(name, 0.0) for known in of_groups] for name in names})
        scales = [group[SCALE] for group in groups if SCALE in group]
        if scales:
            values = values.scaled(LR, [float(group.get(SCALE, 1.0)) for group in groups])
        written = self._written_names(values)
        binding = Binding(groups, values, written)
        if binding.has_tensors:
            # Inside a compiled step the write would be compiled too, and recompiled for every value.
            self._step_uncompiled = torch.compiler.disable(_step)  # type: ignore[no-untyped-call]
        # Last, so that a constructor that raises leaves the optimizer as it was.
        self._own, self._values, self._at, self._binding, self._written = own, values, values.at, binding, written
        self.base_lrs = [known[LR] for known in of_groups]
        for group, known in new:
            for name in names & known.keys():
                value = read(name, group)
                group.setdefault(f"initial_{name}", value.clone() if isinstance(value, Tensor) else known[name])
        return binding

    def _own_values(self, group: Group, numbers: dict[str, float]) -> dict[str, float]:
        """Return a group's own values, also of what is not scheduled: a loaded state may hold others."""
        return {name: float(group.get(f"initial_{name}", held)) for name, held in numbers.items()}

    def _written_names(self, values: Values) -> list[str]:
        """Return the hyperparameters that are written."""
        if MOMENTUM in values.names and self._cycles_momentum and type(self.optimizer).__name__ in BUFFER_FOR_EACH_BETA:
            key, remedy = self.schedule.momentum_switch
            raise ParameterValueError(
                key,
                f": {type(self.optimizer).__name__} keeps a buffer for each of its betas, so none of them can be"
                f" cycled; {remedy}",
            )
        return [name for name in values.names if name != MOMENTUM or self._cycles_momentum]

    def _check_new(self, group: Group) -> None:
        """Raise ValueError where the lr in a group may already have been changed by a schedule."""
        made = bool(self._own)  # a group that is added later brings an lr of its own
        if made or not self.last_epoch or not self.optimizer.state or LR not in self.schedule.own_names:
            return
        if "initial_lr" not in group:
            raise ValueError(
                f"{self.name} scales each param group's own lr, but it begins at step {self.last_epoch}, and the"
                " optimizer's lr may already have been changed by a schedule: its state holds steps, and its param"
                " groups have no 'initial_lr'. Set group['initial_lr'] to the lr that the optimizer was made with, or"
                " make the schedule before the optimizer's state is loaded"
            )

    def rebind(self) -> None:
        """Read the groups' ``lr_scale`` again, and write the values of the present position."""
        self._bind()
        self.set_position(self.last_epoch)

    def rebind_tensors(self) -> None:
        """Bind again as soon as a state was loaded: the groups may hold other tensors."""
        if self._binding is not None and self._binding.has_tensors:
            self._bind()

    @property
    def writes_on_cuda(self) -> bool:
        """Whether values are written into tensors on a CUDA device."""
        return self._binding is not None and self._binding.on_cuda

    @property
    def hyperparameters(self) -> Params:
        """The schedule's parameters by name, with numbers for ``"auto"``."""
        self._bound()
        return self.schedule.with_own({LR: list(map(float, self.base_lrs))}, only_auto=True).params()

    # Values ----------------------------------------------------------------------------------------------------------

    def values_at(self, step: int) -> dict[str, list[float]]:
        """Return the values of each param group by name, for the optimizer step that follows ``step`` finished ones.

        Those that the optimizer does not have are left out.
        """
        self._bound()
        of_groups = self._values.of_groups(count("step", step))
        return {name: of_groups[name] for name in self._written}

    @property
    def written_lrs(self) -> list[float]:
        """The learning rates of the present position, of the groups that it was last bound to."""
        return self._values.of_groups(max(0, self.last_epoch))[LR]

    def lr_at(self, step: int) -> list[float]:
        """Return the learning rate of each param group for the optimizer step that follows ``step`` finished ones."""
        return self.values_at(step)[LR]

    def momentum_at(self, step: int) -> list[float] | None:
        """Return the momentum (or first beta) of each param group at ``step``, or None where it is not scheduled."""
        return self.values_at(step).get(MOMENTUM)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates at the current step (torch's name for ``lr_at(last_epoch)``)."""
        return list(self.lr_at(max(0, self.last_epoch)))

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rates that the optimizer's groups hold now; valid from construction on."""
        return read_lrs(self.optimizer.param_groups)

    @property
    def _last_lr(self) -> list[float | Tensor]:
        return self.get_last_lr()

    @_last_lr.setter
    def _last_lr(self, lrs: Sequence[float | Tensor]) -> None:
        """Ignore what other packages set here: the groups hold the values."""

    # Position --------------------------------------------------------------------------------------------------------

    @property
    def last_batch_iteration(self) -> int:
        """One less than the number of finished optimizer steps, which is DeepSpeed's way to count."""
        return self.last_epoch - 1

    @property
    def is_following(self) -> bool:
        """Whether the optimizer's own steps advance the schedule."""
        return self._clock.following

    @property
    def is_active(self) -> bool:
        """Whether the optimizer's groups hold this schedule's values; they do not while it waits in SequentialLR."""
        return self.last_epoch >= 0 and holds_lrs(self.optimizer.param_groups, self.lr_at(self.last_epoch))

    def set_position(self, step: int) -> None:
        """Go to ``step`` and write its values into the optimizer."""
        # The hot path, once per optimizer step: few calls, no allocation that grows with the groups.
        self.last_epoch = step
        binding, groups = self._binding, self.optimizer.param_groups
        if binding is None or binding.groups is not groups or binding.size != len(groups):
            binding = self._bind()
        # SequentialLR sets a scheduler whose turn has not come yet to -1: it must not write.
        if step >= 0 and not binding.write(self._at(step)):
            self._bind().write(self._at(step))

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step and write the new values; with ``epoch``, go to that position.

        While the schedule follows its optimizer, a call without ``epoch`` changes nothing.

        Raises:
            ValueError: if the schedule counts samples or tokens, and no position is given.
        """
        if self._step_uncompiled is not None and torch.compiler.is_compiling():
            self._step_uncompiled(self, epoch)
            return
        if epoch is None:
            if self._clock.following:
                return
            if self.unit != STEPS:
                self._check_amount(None, f"step(<{self.unit}s consumed so far>)")
            epoch = self.last_epoch + 1
        else:
            self._clock.position_set()
        self.set_position(epoch)

    def follow_optimizer(self, amount: Callable[[], int] | None = None) -> None:
        """From now on, advance whenever the optimizer has actually stepped, and only then.

        Accumulated micro-batches, steps that a gradient scaler skipped and steps of other optimizers in a manual
        loop do not count. Calling it twice is the same as calling it once.

        Args:
            amount: called after each step; returns by how much it advances the schedule, such as its number of samples
                on all ranks; None: by one.

        Raises:
            ValueError: if another schedule follows the same optimizer; if the schedule counts samples or tokens, and no
                ``amount`` is given; or, at the first step, if a DeepSpeed engine steps the optimizer group by group:
                pass the schedule to the engine instead, as ``lr_scheduler``.
        """
        self._follow(amount)

    def follow_engine(self, amount: Callable[[], int] | None = None) -> None:
        """From now on, advance only by :meth:`advance`, which is called for each step that an engine applied.

        Args:
            amount: as for :meth:`follow_optimizer`.

        Raises:
            ValueError: if another schedule follows the same optimizer.
        """
        self._follow(amount, by_engine=True)

    def _follow(self, amount: Callable[[], int] | None, *, by_engine: bool = False) -> None:
        self._check_amount(amount, f"follow_optimizer(<function that returns the {self.unit}s of a finished step>)")
        self._clock.follow(self.optimizer, by_engine=by_engine)
        self._amount = amount

    def _check_amount(self, amount: Callable[[], int] | None, remedy: str) -> None:
        if amount is None and self.unit != STEPS:
            raise ValueError(
                f"{self.name} counts {self.unit}s, and a step of the optimizer does not say how many it took: call"
                f" {remedy}, or use LRSchedulerCallback, which counts them"
            )

    def advance(self) -> None:
        """Advance by what one finished step of the optimizer counts, and write the new values."""
        self.set_position(self.last_epoch + (1 if self._amount is None else self._amount()))

    def unfollow_optimizer(self) -> None:
        """Let calls of :meth:`step` advance the schedule again."""
        self._clock.unfollow()

    # torch's hooks for SequentialLR ----------------------------------------------------------------------------------

    def _initial_step(self) -> None:
        self.set_position(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.set_position(self.last_epoch + 1 if epoch is None else epoch)

    # State -----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> Params:
        """Return the position; also the hyperparameters, to report on loading which of them have changed."""
        # A scheduler whose turn has not come yet may be at -1 or, in nested SequentialLRs, below it.
        position = max(-1, self.last_epoch)
        return {
            "type": self.name,
            "last_epoch": position,
            "unit": self.unit,
            "last_batch_iteration": position - 1,  # DeepSpeed's key, so that its schedulers can load this state
            "in_charge": self.is_active,
            "sets_momentum": self.momentum_at(0) is not None,
            "sets": list(self._written),
            "own_lrs": self._own_lrs(),
            "hyperparameters": self.schedule.params(),
        }

    def _own_lrs(self) -> list[float] | None:
        return list(map(float, self.base_lrs)) if LR in self.schedule.own_names else None

    def load_state_dict(self, state_dict: Params) -> None:
        """Go to the saved position and write its values at once, computed with the current configuration.

        Nothing is written if another scheduler had set the optimizer's lr when the state was saved (in SequentialLR).
        A state that DeepSpeed saved (``last_batch_iteration``) is accepted too.

        Raises:
            ValueError: if ``state_dict`` holds no position, a position in another unit, or comes from a scheduler of
                another package, whose position may count epochs.
        """
        position = position_in(state_dict, self.name)
        saved_unit = state_dict.get("unit", STEPS)
        if saved_unit != self.unit:
            raise ValueError(
                f"{self.name}: the saved position counts {saved_unit}s, and the schedule now counts {self.unit}s: one"
                f' does not follow from the other; go on with "unit": "{saved_unit}"'
            )
        changed = _changes(state_dict, self.name, self.schedule, self._own_lrs())
        if changed:
            warn(
                f"{self.name} resumes at {self.unit} {position} with hyperparameters that differ from the saved ones;"
                f" the current ones are used: {'; '.join(changed)}",
                stacklevel=2,
            )
        self._clock.position_set()
        # The loaded optimizer state holds values from the middle of a course that is no longer wanted. Earlier versions
        # saved only whether there was a momentum.
        were_set = state_dict.get("sets") or [MOMENTUM] * bool(state_dict.get("sets_momentum"))
        for name in set(were_set) - set(self._written):
            for number, group in enumerate(self.optimizer.param_groups):
                own = self._own[_identity(number, group)][1].get(name)
                if own is not None:
                    write(name, group, own)
        # Loaded inside SequentialLR or ChainedScheduler, it must not overwrite the lr of the one whose turn it was.
        if state_dict.get("in_charge", True):
            self.set_position(position)
        else:
            self.last_epoch = position

    def __getstate__(self) -> Params:
        # Optimizers drop their hooks when copied or pickled; the copy registers its own, and binds to its own tensors.
        own = {key: value for key, value in vars(self).items() if key not in UNCOPIED}
        by_place = [self._own.get(_identity(n, group)) for n, group in enumerate(self.optimizer.param_groups)]
        return {**own, "_own": by_place, "_clock_was": (self._clock.following, self._clock.watching)}

    def __setstate__(self, state: Params) -> None:
        (following, watching), by_place = state.pop("_clock_was"), state.pop("_own")
        self.__dict__.update(state)
        self._binding = self._step_uncompiled = None
        pairs = enumerate(zip(self.optimizer.param_groups, by_place, strict=True))
        self._own = {_identity(n, group): known for n, (group, known) in pairs if known is not None}
        self._clock = Clock(self, watch=watching)
        if following:
            self._follow(self._amount)


def check_names(schedule: Schedule, optimizer: str, groups: Iterable[Mapping[str, float]]) -> None:
    """Raise ValueError where a schedule sets a hyperparameter that a param group does not have.

    Args:
        schedule: the schedule.
        optimizer: name of the optimizer.
        groups: the numbers in each of its param groups.
    """
    for number, numbers in enumerate(groups):
        for name in schedule.names:
            # An lr is checked before; a momentum that an optimizer lacks is left out with a warning.
            if name not in numbers and name not in (LR, MOMENTUM):
                allowed = [each for each in numbers if each not in (LR, SCALE)]
                raise ValueError(
                    f"{schedule.type}: {optimizer} has no {name}{did_you_mean(name, allowed)}; the numbers in its"
                    f" param_groups[{number}] are {', '.join(numbers)}"
                )


def _identity(number: int, group: Group) -> int:
    """Return what a param group is known by: its first parameter, which stays when a state is loaded."""
    return id(group["params"][0]) if group["params"] else -1 - number


def is_own_state(state: object) -> bool:
    """Return whether ``state`` is what ``state_dict`` of a schedule of this package returned."""
    return isinstance(state, dict) and isinstance(state.get("hyperparameters"), dict)


def position_in(state: Mapping[str, object], name: str) -> int:
    """Return the number of finished optimizer steps in a saved state; DeepSpeed's own state is accepted too.

    Raises:
        ValueError: if there is no position, or the state comes from a scheduler of another package, whose position may
            count epochs. ``name`` is that of the schedule that loads it.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{name}: the saved state must be a mapping with 'last_epoch', got {type(state).__name__}")
    if "last_epoch" in state and not any(str(key).startswith("_") for key in state):
        return count("last_epoch", state["last_epoch"], at_least=-1)
    if "last_batch_iteration" in state:
        return count("last_batch_iteration", state["last_batch_iteration"], at_least=-1) + 1
    if "last_epoch" in state:
        raise ValueError(
            f"{name}: the saved state is that of another scheduler (it has the keys {', '.join(map(str, state))}),"
            " whose position may count epochs; load {'last_epoch': the number of finished optimizer steps} instead, or"
            " let LRSchedulerCallback find the position"
        )
    raise ValueError(f"{name}: no 'last_epoch' in the saved state, got keys {list(state)}")


def _changes(saved: Mapping[str, Any], name: str, schedule: Schedule, own_lrs: list[float] | None) -> list[str]:
    """Return ``key: old -> new`` for everything that the values depend on and that has changed since the save."""
    if not is_own_state(saved) or not saved["hyperparameters"]:
        return []
    if saved.get("type", name) != name:
        return [f"type: {saved['type']!r} -> {name!r}"]
    before, after = _flat(saved["hyperparameters"]), _flat(schedule.params())
    # Groups that are added while training continues have no counterpart.
    pairs = list(zip(saved.get("own_lrs") or [], own_lrs or [], strict=False))
    if any(not math.isclose(old, new, rel_tol=1e-6) for old, new in pairs):
        before["the optimizer's lr"], after["the optimizer's lr"] = saved["own_lrs"], own_lrs
    keys = {**after, **before}  # also those of a phase that there is no more
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys if before.get(key) != after.get(key)]


def _flat(params: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters with one entry for each key of a mapping in a list: ``phases[0].steps``."""
    flat: dict[str, object] = {}
    for key, value in params.items():
        if isinstance(value, (list, tuple)) and value and all(isinstance(entry, Mapping) for entry in value):
            for index, entry in enumerate(value):
                flat.update({f"{key}[{index}].{name}": item for name, item in entry.items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _step(schedule: ScheduledLR, epoch: int | None) -> None:
    # A function, not a method: a wrapped method would be a reference from the schedule to itself.
    schedule.step(epoch)
