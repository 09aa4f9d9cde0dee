"""ClosedFormLR: a torch LRScheduler whose lr and momentum are pure functions of the number of optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers.capturable import make_capturable
from lightning_lrsched.schedulers.checks import count
from lightning_lrsched.schedulers.durations import STEPS, Unit
from lightning_lrsched.schedulers.group_values import GroupValues
from lightning_lrsched.schedulers.optimizer_hooks import OptimizerHooks
from lightning_lrsched.schedulers.param_groups import (
    ParamGroupWriter,
    check_groups,
    has_momentum,
    holds_lrs,
    read_lrs,
    read_momenta,
    torch_optimizer,
    write_momenta,
)
from lightning_lrsched.schedulers.ranks import warn
from lightning_lrsched.schedulers.schedule import Circumstances, Schedule
from lightning_lrsched.schedulers.state import changes_since, check_unit, position_in

UNCOPIED = ("_hooks", "_writer", "_values", "_step_uncompiled")
"""Attributes that belong to one optimizer: a copy binds anew."""


class ClosedFormLR(Schedule, LRScheduler):
    """A learning-rate schedule that is a pure function of ``step``, the number of optimizer steps finished so far.

    ``step`` is 0 for the first batch; it is torch's ``last_epoch`` and DeepSpeed's ``last_batch_iteration + 1``. A
    subclass declares its parameters in its constructor and provides the
    :meth:`~lightning_lrsched.schedulers.schedule.Schedule.curve`.

    There are two ways to drive it. In a plain torch loop call :meth:`step` after ``optimizer.step()``. Or call
    :meth:`follow_optimizer` once: then the schedule advances when the optimizer itself has stepped, and calls of
    :meth:`step` change nothing, so that no step is counted twice.

    In a ChainedScheduler, most schedulers multiply the current lr; this one sets it, whatever those before it did.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Each hyperparameter is an attribute."""

    unit: Unit = STEPS
    """What the position counts; set by a configuration that says ``unit``."""

    _amount: Callable[[], int] | None = None

    # Binding to the optimizer ----------------------------------------------------------------------------------------

    def __init__(
        self,
        optimizer: Optimizer,
        last_batch_iteration: int,
        declared: type[ClosedFormLR],
        given: Mapping[str, Any],
    ) -> None:
        """Check the parameters and write the first values.

        Args:
            optimizer: the optimizer whose learning rate is scheduled.
            last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.
            declared: the class whose constructor declares the parameters.
            given: their values by name; other names are ignored.
        """
        # torch's own __init__ wraps optimizer.step and costs more per step than the schedule itself; everything
        # that SequentialLR, ChainedScheduler and Lightning rely on is set up here.
        self.optimizer = torch_optimizer(optimizer)
        self.last_epoch = count("last_batch_iteration", last_batch_iteration, at_least=-1) + 1
        self.hyperparameters = declared.check(given)
        for name, value in self.hyperparameters.items():
            setattr(self, name, value)  # not by __dict__: attributes of an object whose dict was touched are slower
        self.base_lrs: list[float | Tensor] = []
        self._own_momenta: list[float | None] = []
        self._capturable = False
        # Determined once: a cycle that goes down to 0 would later look like an optimizer without momentum.
        self._cycles_momentum = has_momentum(self.optimizer)
        self._values: GroupValues
        self._writer: ParamGroupWriter | None = None
        self._step_uncompiled: Any = None
        self.set_position(self.last_epoch)
        # Not with tensors: the optimizer step may be compiled, and the hook would be compiled with it.
        self._hooks = OptimizerHooks(self, watch_steps=not self._bound().has_tensors)
        # By identity: a user who writes out the default has chosen it; one who writes nothing may not know it.
        defaulted = [name for name, p in declared.parameters().items() if given[name] is p.default]
        without_momentum = None if self._cycles_momentum else type(self.optimizer).__name__
        base_lrs = [float(lr) for lr in self.base_lrs]
        for remark in self.remarks(Circumstances(self.hyperparameters, defaulted, base_lrs, without_momentum)):
            warn(remark, stacklevel=3)

    def _bound(self) -> ParamGroupWriter:
        """Return the writer for the optimizer's current param groups."""
        writer, groups = self._writer, self.optimizer.param_groups
        return writer if writer and writer.groups is groups and writer.size == len(groups) else self._bind()

    def _bind(self) -> ParamGroupWriter:
        """Bind to the optimizer's param groups: at construction, after its state was loaded, when a group was added."""
        groups = self.optimizer.param_groups
        # The lrs of known groups were fixed at construction: a loaded checkpoint must not bring back old ones.
        new_groups = groups[len(self.base_lrs) :]
        check_groups(self.optimizer)
        self._check_base_lrs(new_groups)
        base_lrs = [*self.base_lrs, *(float(group.get("initial_lr", group["lr"])) for group in new_groups)]
        self._values = self.values(
            self.hyperparameters, [float(lr) for lr in base_lrs], cycles_momentum=self._cycles_momentum
        )
        if self._capturable:
            make_capturable(self.optimizer, momentum=self._values.has_momentum)
        self._writer = ParamGroupWriter(self.optimizer, self._values)
        if self._writer.has_tensors:
            # Inside a compiled step the write would be compiled too, and recompiled for every value.
            self._step_uncompiled = torch.compiler.disable(_step)  # type: ignore[no-untyped-call]
        # Last, so that a constructor that raises leaves the optimizer as it was.
        self.base_lrs = base_lrs
        self._own_momenta += read_momenta(new_groups)
        for group, own_lr in zip(new_groups, read_lrs(new_groups), strict=True):
            group.setdefault("initial_lr", own_lr)
        return self._writer

    def _check_base_lrs(self, new_groups: list[dict[str, Any]]) -> None:
        """Raise ValueError where the lr in the groups may already have been changed by a schedule."""
        made = bool(self.base_lrs)  # a group that is added later brings an lr of its own
        if made or not self.last_epoch or not self.optimizer.state or not self.scales_base_lr(self.hyperparameters):
            return
        if any("initial_lr" not in group for group in new_groups):
            raise ValueError(
                f"{type(self).__name__} scales each param group's own lr, but it begins at step {self.last_epoch}, and"
                " the optimizer's lr may already have been changed by a schedule: its state holds steps, and its param"
                " groups have no 'initial_lr'. Set group['initial_lr'] to the lr that the optimizer was made with, or"
                " make the schedule before the optimizer's state is loaded"
            )

    def rebind_tensors(self) -> None:
        """Bind again as soon as a state was loaded: a graph captured before that would read memory no longer in use."""
        if self._writer is not None and self._writer.has_tensors:
            self._bind()

    def make_capturable(self) -> None:
        """Turn the optimizer's float lr (and first beta, where momentum is scheduled) into tensors, permanently.

        A compiled or captured optimizer step needs this: it would not see a new float. Call it before compiling and
        capturing. An optimizer state that is loaded later is converted as well.

        Raises:
            ValueError: if the optimizer does not support it; in that case nothing is changed.
        """
        make_capturable(self.optimizer, momentum=self._sets_momentum)
        self._hooks.watching = False
        self._capturable = True
        self._bind()
        self.set_position(self.last_epoch)

    @property
    def writes_on_cuda(self) -> bool:
        """Whether the lr or the momentum are tensors on a CUDA device."""
        return self._writer is not None and self._writer.on_cuda

    # Values ----------------------------------------------------------------------------------------------------------

    def lr_at(self, step: int) -> list[float]:
        """Return the learning rate of each param group for the optimizer step that follows ``step`` finished ones."""
        self._bound()
        return self._values.lr_at(count("step", step))

    def momentum_at(self, step: int) -> list[float] | None:
        """Return the momentum (or first beta) of each param group at ``step``, or None where it is not scheduled."""
        self._bound()
        return self._values.momentum_at(count("step", step))

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates at the current step (torch's name for ``lr_at(last_epoch)``)."""
        return list(self.lr_at(max(0, self.last_epoch)))

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rates that the optimizer's groups hold now; valid from construction on."""
        return read_lrs(self.optimizer.param_groups)

    @property
    def _last_lr(self) -> list[float | Tensor]:  # type: ignore[override]
        return self.get_last_lr()

    # Position --------------------------------------------------------------------------------------------------------

    @property
    def last_batch_iteration(self) -> int:
        """One less than the number of finished optimizer steps, which is DeepSpeed's way to count."""
        return self.last_epoch - 1

    @property
    def is_following(self) -> bool:
        """Whether the optimizer's own steps advance the schedule."""
        return self._hooks.following

    def set_position(self, step: int) -> None:
        """Go to ``step`` and write its values into the optimizer."""
        # The hot path, once per optimizer step: few calls, no allocation that grows with the groups.
        self.last_epoch = step
        writer, groups = self._writer, self.optimizer.param_groups
        if writer is None or writer.groups is not groups or writer.size != len(groups):
            writer = self._bind()
        # SequentialLR sets a scheduler whose turn has not come yet to -1: it must not write.
        if step >= 0:
            lr, momentum = self._values.at(step)
            if not writer.write(lr, momentum):
                self._bind().write(lr, momentum)

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
            if self._hooks.following:
                return
            self._check_amount(None, f"step(<{self.unit}s consumed so far>)")
            epoch = self.last_epoch + 1
        else:
            self._hooks.position_set()
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
                ``amount`` is given; or, at the first step, if a DeepSpeed engine steps the optimizer: pass the schedule
                to the engine instead, as ``lr_scheduler``.
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
        self._hooks.follow(self.optimizer, by_engine=by_engine)
        self._amount = amount

    def _check_amount(self, amount: Callable[[], int] | None, remedy: str) -> None:
        if amount is None and self.unit != STEPS:
            raise ValueError(
                f"{type(self).__name__} counts {self.unit}s, and a step of the optimizer does not say how many it took:"
                f" call {remedy}, or use LRSchedulerCallback, which counts them"
            )

    def advance(self) -> None:
        """Advance by what one finished step of the optimizer counts, and write the new values."""
        self.set_position(self.last_epoch + (1 if self._amount is None else self._amount()))

    def unfollow_optimizer(self) -> None:
        """Let calls of :meth:`step` advance the schedule again."""
        self._hooks.unfollow()

    # torch's hooks for SequentialLR ----------------------------------------------------------------------------------

    def _initial_step(self) -> None:
        self.set_position(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.set_position(self.last_epoch + 1 if epoch is None else epoch)

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the optimizer holds this schedule's lrs now; in SequentialLR it may be another scheduler's turn."""
        return self.last_epoch >= 0 and holds_lrs(self.optimizer.param_groups, self.lr_at(self.last_epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the position; also the hyperparameters, to report on loading which of them have changed."""
        # A scheduler whose turn has not come yet may be at -1 or, in nested SequentialLRs, below it.
        position = max(-1, self.last_epoch)
        return {
            "type": type(self).__name__,
            "last_epoch": position,
            "unit": self.unit,
            "last_batch_iteration": position - 1,  # DeepSpeed's key, so that its schedulers can load this state
            "in_charge": self.is_active,
            "sets_momentum": self._sets_momentum,
            "own_lrs": self._own_lrs(),
            "hyperparameters": dict(self.hyperparameters),
        }

    @property
    def _sets_momentum(self) -> bool:
        self._bound()
        return self._values.has_momentum

    def _own_lrs(self) -> list[float] | None:
        scales = self.scales_base_lr(self.hyperparameters)
        return [float(lr) for lr in self.base_lrs] if scales else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved position and write its values at once, computed with the current configuration.

        Nothing is written if another scheduler had set the optimizer's lr when the state was saved (in SequentialLR).
        A state that DeepSpeed saved (``last_batch_iteration``) is accepted too.

        Raises:
            ValueError: if ``state_dict`` holds no position, a position in another unit, or comes from a scheduler of
                another package, whose position may count epochs.
        """
        position = position_in(state_dict, type(self).__name__)
        check_unit(state_dict, self.unit, type(self).__name__)
        now = {"type": type(self).__name__, "hyperparameters": self.hyperparameters}
        changed = changes_since(state_dict, now, self._own_lrs())
        if changed:
            warn(
                f"{type(self).__name__} resumes at {self.unit} {position} with hyperparameters that differ from the"
                f" saved ones; the current ones are used: {'; '.join(changed)}",
                stacklevel=2,
            )
        self._hooks.position_set()
        if state_dict.get("sets_momentum") and not self._sets_momentum:
            # The loaded optimizer state holds a momentum from the middle of a cycle that is no longer wanted.
            write_momenta(self.optimizer.param_groups, self._own_momenta)
        # Loaded inside SequentialLR or ChainedScheduler, it must not overwrite the lr of the one whose turn it was.
        if state_dict.get("in_charge", True):
            self.set_position(position)
        else:
            self.last_epoch = position

    def __getstate__(self) -> dict[str, Any]:
        # Optimizers drop their hooks when copied or pickled; the copy registers its own, and binds to its own tensors.
        own = {key: value for key, value in vars(self).items() if key not in UNCOPIED}
        return {**own, "_hooks_were": (self._hooks.following, self._hooks.watching)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        following, watching = state.pop("_hooks_were")
        self.__dict__.update(state)
        self._writer = self._step_uncompiled = None
        self._hooks = OptimizerHooks(self, watch_steps=watching)
        if following:
            self._follow(self._amount)


def _step(schedule: ClosedFormLR, epoch: int | None) -> None:
    # A function, not a method: a wrapped method would be a reference from the schedule to itself.
    schedule.step(epoch)
