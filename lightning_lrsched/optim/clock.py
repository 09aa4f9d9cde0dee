"""Clock: an optimizer's finished steps advance a schedule; warnings for two common mistakes.

torch iterates over an optimizer's hooks while they run, so none may be registered or removed then: a hook that is no
longer needed stays but does nothing. The optimizer's reference to the schedule is weak and does not keep it alive.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from inspect import unwrap
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from lightning_lrsched.optim.scheduled_lr import ScheduledLR

CLOCKS = "_lightning_lrsched_clocks"
"""Attribute of an optimizer: the clocks of its schedules. A copied or pickled optimizer has none."""

WATCHED_STEPS = 3
"""[optimizer steps] After this many without a call of the schedule's ``step``, a warning is given."""


def follower_of(optimizer: Optimizer) -> ScheduledLR | None:
    """Return the schedule that follows ``optimizer``, None if there is none."""
    clocks: list[Clock] = getattr(optimizer, CLOCKS, [])
    return next((clock.schedule for clock in clocks if clock.following and clock.schedule is not None), None)


class Clock:
    """Advances a schedule when its optimizer has finished a step, and notifies it of a loaded optimizer state.

    Args:
        schedule: the schedule whose optimizer gets the hooks.
        watch: warn if the schedule is not stepped between steps of the optimizer.
    """

    def __init__(self, schedule: ScheduledLR, *, watch: bool) -> None:
        self._schedule = weakref.ref(schedule)
        self._name = schedule.name
        self._groups = schedule.optimizer.param_groups  # an engine may exchange them
        self._begins_at: int | None = schedule.last_epoch
        self._positions: list[int] = []
        self._state_loaded = self._stepper_known = False
        self._may_nest = _may_nest(schedule.optimizer)
        self.watching = watch
        self.following = False
        self._step_hook: RemovableHandle | None = None
        self._register(schedule.optimizer, steps=watch)
        self._load_hook = schedule.optimizer.register_load_state_dict_post_hook(self._after_load)

    def _register(self, optimizer: Optimizer, *, steps: bool) -> None:
        """Register a hook for the optimizer's steps; remove those that other schedules no longer need."""
        clocks: list[Clock] = vars(optimizer).setdefault(CLOCKS, [])
        for other in clocks:
            other.remove_if_done()
        clocks[:] = [other for other in clocks if other is not self and other.schedule is not None] + [self]
        if steps and self._step_hook is None:
            self._step_hook = optimizer.register_step_post_hook(self._after_step)

    @property
    def schedule(self) -> ScheduledLR | None:
        """The schedule, None if it no longer exists."""
        return self._schedule()

    def remove_if_done(self) -> None:
        """Remove the hooks that are no longer needed; must not be called while the optimizer steps."""
        gone = self.schedule is None
        if self._step_hook is not None and (gone or not (self.watching or self.following)):
            self._step_hook.remove()
            self._step_hook = None
        if gone:
            self._load_hook.remove()

    def follow(self, optimizer: Optimizer, *, by_engine: bool = False) -> None:
        """Advance the schedule after each finished step of ``optimizer``.

        Args:
            optimizer: the schedule's.
            by_engine: an engine steps the optimizer and advances the schedule itself.

        Raises:
            ValueError: if another schedule follows it.
        """
        other = follower_of(optimizer)
        if other is not None and other is not self.schedule:
            raise ValueError(
                f"{self._name} cannot follow this {type(optimizer).__name__}: {other.name} follows it already, and both"
                " would set its lr; keep one of them (or call unfollow_optimizer() of the other)"
            )
        self.watching, self.following = False, True
        self._advance_uncompiled: Any = torch.compiler.disable(_advance)  # type: ignore[no-untyped-call]
        self._register(optimizer, steps=not by_engine)
        if by_engine and self._step_hook is not None:
            self._step_hook.remove()
            self._step_hook = None

    def unfollow(self) -> None:
        """Stop advancing the schedule."""
        self.watching = self.following = self._state_loaded = False
        self.remove_if_done()

    def position_set(self) -> None:
        """Note that the schedule's position was set, so that it need not follow from the optimizer's steps."""
        self._state_loaded = False
        self._begins_at = None

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._may_nest and not torch.compiler.is_compiling() and _is_nested(optimizer):
            return
        if self.following:
            # A compiled optimizer step would compile its hooks too, and recompile them for every step number.
            if torch.compiler.is_compiling():
                self._advance_uncompiled(self, optimizer)
            else:
                self.advance(optimizer)
        elif self.watching:
            self._check_calls_of_step(optimizer)

    def advance(self, optimizer: Optimizer) -> None:
        """Advance the schedule, unless a gradient scaler has made the step do nothing."""
        schedule = self.schedule
        if schedule is None:
            self.following = False
            warn(
                f"{self._name} followed this {type(optimizer).__name__} and no longer exists, so the lr stays as it is:"
                " keep a reference to the schedule, or call unfollow_optimizer() before you drop it",
                stacklevel=2,
            )
            return
        self._refuse_engine()
        if schedule.writes_on_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{self._name} follows an optimizer whose step is being captured in a CUDA graph: a replay runs no"
                " hooks, so the schedule would stand still. Call unfollow_optimizer() before capturing, and step()"
                " after each replay."
            )
        # A fused optimizer under a gradient scaler is always called and skips inside its kernel. The scaler leaves the
        # result on the device: reading it is the one unavoidable wait.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not found_inf:
            if self._state_loaded:
                self._warn_not_restored(schedule)
            schedule.advance()

    def _refuse_engine(self) -> None:
        """Raise ValueError where a DeepSpeed engine steps the optimizer; looked at with the first step.

        ZeRO calls the optimizer's ``step`` once for each param group, and 16-bit optimizers once before training.
        """
        if self._stepper_known:
            return
        if _is_stepped_by_deepspeed():
            raise ValueError(
                f"{self._name} follows an optimizer that a DeepSpeed engine steps, and its steps are not the engine's:"
                " leave out follow_optimizer() and pass the schedule to the engine, which steps it,"
                " deepspeed.initialize(..., lr_scheduler=schedule); in Lightning use LRSchedulerCallback, or pass the"
                " module (or trainer=...) to lightning_lrsched.configure_optimizers"
            )
        self._stepper_known = True

    def _check_calls_of_step(self, optimizer: Optimizer) -> None:
        """Warn, at the optimizer's first steps, where the schedule's ``step`` is not called after each."""
        schedule = self.schedule
        # One that waits for its turn in SequentialLR is at -1.
        if schedule is None or schedule.last_epoch < 0 or optimizer.param_groups is not self._groups:
            return
        if not torch.compiler.is_compiling() and _is_stepped_by_deepspeed():
            self.watching = False  # the engine calls the schedule's step, and the optimizer's more often than that
            return
        self._positions.append(schedule.last_epoch)
        if len(self._positions) == 1 and self._begins_at is not None and schedule.last_epoch > self._begins_at:
            self.watching = False
            warn(
                f"the step() of {self._name} was called before the first optimizer.step(), so its first value was not"
                " used: call optimizer.step() first, then step() of the schedule",
                stacklevel=2,
            )
        elif len(self._positions) == WATCHED_STEPS:
            self.watching = False
            if len(set(self._positions)) == 1:
                warn(
                    f"{self._name} counts optimizer steps, but its step() was not called between {WATCHED_STEPS} of"
                    " them: call it after each, or follow_optimizer() once (in Lightning: interval 'step', not 'epoch',"
                    " or what lightning_lrsched.configure_optimizers returns)",
                    stacklevel=2,
                )

    def _after_load(self, optimizer: Optimizer) -> None:
        self.watching = False  # in a sequence, it may be another scheduler's turn
        schedule = self.schedule
        if schedule is not None:
            self._state_loaded = self.following and schedule.last_epoch == 0 and bool(optimizer.state)
            schedule.rebind_tensors()

    def _warn_not_restored(self, schedule: ScheduledLR) -> None:
        self._state_loaded = False
        warn(
            f"the state of {type(schedule.optimizer).__name__} was loaded, but none for {self._name}, which goes on"
            f" from step {schedule.last_epoch}: load its state too, or give it the position (last_batch_iteration)",
            stacklevel=2,
        )


def _may_nest(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's ``step`` overrides that of another optimizer, which it may call."""
    steps = {unwrap(vars(cls)["step"]) for cls in type(optimizer).__mro__ if "step" in vars(cls)}
    return len(steps - {unwrap(Optimizer.step)}) > 1


def _is_nested(optimizer: Optimizer) -> bool:
    """Return whether the ``step`` that has ended was called by another ``step`` of the same optimizer.

    torch has both call the hooks, once it has seen an optimizer of the other class.
    """
    calls_hooks = getattr(type(optimizer).step, "__code__", None)
    found = 0
    frame: FrameType | None = sys._getframe()
    while frame is not None and found < 2:
        found += frame.f_code is calls_hooks and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return found == 2


def _is_stepped_by_deepspeed() -> bool:
    """Return whether DeepSpeed called the optimizer's ``step`` that runs now; nothing on the optimizer shows it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("deepspeed.runtime."):
            # Not where a module steps an optimizer of its own in forward, which the engine calls.
            return any(part in frame.f_code.co_name for part in ("step", "initialize"))
        frame = frame.f_back
    return False


def _advance(clock: Clock, optimizer: Optimizer) -> None:
    # A function, not a method: a wrapped method would be a reference from the clock to itself.
    clock.advance(optimizer)


def warn(message: str, *, stacklevel: int) -> None:
    """Give a warning, on the first of several ranks only.

    Args:
        message: the warning.
        stacklevel: as for ``warnings.warn`` in the caller.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        warnings.warn(message, stacklevel=stacklevel + 1)
