"""OptimizerHooks: an optimizer's finished steps advance a schedule; warnings for two common mistakes.

torch iterates over an optimizer's hooks while they run, so none may be registered or removed then: a hook that is no
longer needed stays but does nothing. The optimizer's reference to the schedule is weak and does not keep it alive.
"""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_lrsched.schedulers.ranks import warn

if TYPE_CHECKING:
    from lightning_lrsched.schedulers.base import ClosedFormLR

_HOOKS: weakref.WeakKeyDictionary[Optimizer, list[OptimizerHooks]] = weakref.WeakKeyDictionary()
"""The hooks of each optimizer: which schedule follows it, and which hooks are no longer needed."""


def follower_of(optimizer: Optimizer) -> ClosedFormLR | None:
    """Return the schedule that follows ``optimizer``, None if there is none."""
    followers = (hooks.schedule for hooks in _HOOKS.get(optimizer, ()) if hooks.following)
    return next((schedule for schedule in followers if schedule is not None), None)


class OptimizerHooks:
    """Notify a schedule when its optimizer has finished a step, or its state was loaded.

    Args:
        schedule: the schedule whose optimizer gets the hooks.
        watch_steps: warn if the schedule is not stepped between two steps of the optimizer.
    """

    def __init__(self, schedule: ClosedFormLR, *, watch_steps: bool) -> None:
        self._schedule = weakref.ref(schedule)
        self._name = type(schedule).__name__
        self._groups = schedule.optimizer.param_groups  # loading a state replaces them
        self._first_position: int | None = schedule.last_epoch
        self._position_before: int | None = None
        self._state_loaded = False
        self.watching = watch_steps
        self.following = self._by_engine = False
        self._stepper_known = False
        self._step_handle: RemovableHandle | None = None
        self._register(schedule.optimizer, steps=watch_steps)
        self._load_handle = schedule.optimizer.register_load_state_dict_post_hook(self._after_load)

    def _register(self, optimizer: Optimizer, *, steps: bool) -> None:
        """Register a hook for the optimizer's steps; remove those that other schedules no longer need."""
        hooks = _HOOKS.setdefault(optimizer, [])
        for other in hooks:
            other.remove_if_done()
        hooks[:] = [other for other in hooks if other is not self and other.schedule is not None] + [self]
        if steps and self._step_handle is None:
            self._step_handle = optimizer.register_step_post_hook(self._after_step)

    @property
    def schedule(self) -> ClosedFormLR | None:
        """The schedule, None if it no longer exists."""
        return self._schedule()

    def remove_if_done(self) -> None:
        """Remove the hooks that are no longer needed; must not be called while the optimizer steps."""
        gone = self.schedule is None
        if self._step_handle is not None and (gone or not (self.watching or self.following)):
            self._step_handle.remove()
            self._step_handle = None
        if gone:
            self._load_handle.remove()

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
                f"{self._name} cannot follow this {type(optimizer).__name__}: {type(other).__name__} follows it"
                " already, and both would set its lr; keep one of them (or call unfollow_optimizer() of the other)"
            )
        self.watching, self.following, self._by_engine = False, True, by_engine
        self._advance_uncompiled: Any = torch.compiler.disable(_advance)  # type: ignore[no-untyped-call]
        self._register(optimizer, steps=not by_engine)

    def unfollow(self) -> None:
        """Stop advancing the schedule."""
        self.watching = self.following = self._state_loaded = False
        self.remove_if_done()

    def position_set(self) -> None:
        """Note that the schedule's position was set, so that it need not follow from the optimizer's steps."""
        self._state_loaded = False
        self._first_position = None

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.following and not self._by_engine:
            # A compiled optimizer step would compile its hooks too, and recompile them for every step number.
            if torch.compiler.is_compiling():
                self._advance_uncompiled(self, optimizer)
            else:
                self.advance(optimizer)
        elif self.watching:
            self._check_calls_of_step(optimizer)

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

    def _check_calls_of_step(self, optimizer: Optimizer) -> None:
        """Warn, at the optimizer's first two steps, where the schedule's ``step`` is not called after each."""
        schedule = self.schedule
        # One that waits for its turn in SequentialLR is at -1; in a loaded state it may be another scheduler's turn.
        if schedule is None or schedule.last_epoch < 0 or optimizer.param_groups is not self._groups:
            return
        if not torch.compiler.is_compiling() and _is_stepped_by_deepspeed():
            self.watching = False  # the engine calls the schedule's step, and the optimizer's more often than that
            return
        before, self._position_before = self._position_before, schedule.last_epoch
        if before is None:
            if self._first_position is not None and schedule.last_epoch > self._first_position:
                self.watching = False
                warn(
                    f"the step() of {self._name} was called before the first optimizer.step(), so its first value was"
                    " not used: call optimizer.step() first, then step() of the schedule",
                    stacklevel=2,
                )
            return
        self.watching = False
        if before == schedule.last_epoch:
            warn(
                f"{self._name} counts optimizer steps, but its step() was not called between two of them: call it after"
                " each, or follow_optimizer() once (in Lightning: interval 'step', not 'epoch', or what"
                " lightning_lrsched.configure_optimizers returns)",
                stacklevel=2,
            )

    def _after_load(self, optimizer: Optimizer) -> None:
        schedule = self.schedule
        if schedule is None:
            return
        made_steps = bool(optimizer.state)
        self._state_loaded = self.following and schedule.last_epoch == 0 and made_steps
        schedule.rebind_tensors()

    def _warn_not_restored(self, schedule: ClosedFormLR) -> None:
        self._state_loaded = False
        warn(
            f"the state of {type(schedule.optimizer).__name__} was loaded, but none for {self._name}, which goes on"
            f" from step {schedule.last_epoch}: load its state too, or give it the position (last_batch_iteration)",
            stacklevel=2,
        )


def _is_stepped_by_deepspeed() -> bool:
    """Return whether DeepSpeed called the optimizer's ``step`` that runs now; nothing on the optimizer shows it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("deepspeed.runtime."):
            # Not where a module steps an optimizer of its own in forward, which the engine calls.
            return any(part in frame.f_code.co_name for part in ("step", "initialize"))
        frame = frame.f_back
    return False


def _advance(hooks: OptimizerHooks, optimizer: Optimizer) -> None:
    # A function, not a method: a wrapped method would be a reference from the hooks to themselves.
    hooks.advance(optimizer)
