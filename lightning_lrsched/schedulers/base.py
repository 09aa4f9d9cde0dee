"""ClosedFormLR: a torch LRScheduler whose values are pure functions of the step, and the clock that drives it."""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from lightning_lrsched.schedulers.capturable import make_capturable
from lightning_lrsched.schedulers.checks import count
from lightning_lrsched.schedulers.clock import OptimizerClock
from lightning_lrsched.schedulers.param_groups import (
    ParamGroupWriter,
    Range,
    Weights,
    check_groups,
    read_lrs,
    read_momenta,
    write_momenta,
)
from lightning_lrsched.schedulers.state import changes_since, position_in
from lightning_lrsched.schedulers.watch import RestoreWatch, StepWatch


class ClosedFormLR(LRScheduler):
    """A learning-rate schedule that is a pure function of ``step``, the number of optimizer steps finished so far.

    ``step`` is 0 for the first batch; it is torch's ``last_epoch`` and DeepSpeed's ``last_batch_iteration + 1``. Every
    value is a blend of the two ends of its group's range, ``low * low_weight + high * high_weight``; a subclass gives
    the ranges (per param group) and the weights (per step), and nothing else.

    There are two ways to drive it. In a plain torch loop call :meth:`step` after ``optimizer.step()``. Or call
    :meth:`follow_optimizer` once: then the schedule advances when the optimizer itself has stepped, and calls of
    :meth:`step` change nothing, so that nobody can count a step twice.
    """

    def __init__(self, optimizer: Optimizer, last_batch_iteration: int = -1) -> None:
        # torch's own __init__ wraps optimizer.step and costs more per step than the schedule itself; all that other
        # torch classes (SequentialLR, ChainedScheduler) and Lightning rely on is set up here.
        self.optimizer = _torch_optimizer(optimizer)
        self.last_epoch = count("last_batch_iteration", last_batch_iteration, at_least=-1) + 1
        self.base_lrs: list[float | Tensor] = []
        self._own_momenta: list[float | None] = []
        self._clock: OptimizerClock | None = None
        self._restore_watch: RestoreWatch | None = None
        self._capturable = False
        self._lrs_between: list[Range] = []
        self._momenta_between: list[Range] | None = None
        self._load_hook: RemovableHandle | None = None
        self._writer: ParamGroupWriter | None = None
        self._step_watch: StepWatch | None = None
        writer = self._go_to(self.last_epoch)
        if not writer.has_tensors:  # as a compiled step has, which would compile the hook too
            self._step_watch = StepWatch(self)

    # What a subclass gives -------------------------------------------------------------------------------------------

    def _lr_ranges(self) -> list[Range]:
        """Return (low, high) of the lr for each of the optimizer's param groups, now."""
        raise NotImplementedError

    def _momentum_ranges(self) -> list[Range] | None:
        """Return (low, high) of the momentum for each param group, or None: momentum is left alone."""
        return None

    def _weights(self, step: int) -> Weights:
        """Return the weights of (lr low, lr high, momentum low, momentum high) at ``step``."""
        raise NotImplementedError

    def scales_own_lr(self) -> bool:
        """Tell whether the values depend on the lr that the optimizer was made with."""
        return False

    # Values ----------------------------------------------------------------------------------------------------------

    def lr_at(self, step: int) -> list[float]:
        """Return the learning rate of each param group for the optimizer step that follows ``step`` finished ones."""
        self._bind_if_stale()
        low_weight, high_weight, _, _ = self._weights(count("step", step))
        return [low * low_weight + high * high_weight for low, high in self._lrs_between]

    def momentum_at(self, step: int) -> list[float] | None:
        """Return the momentum (or first beta) of each param group at ``step``, or None where it is not scheduled."""
        self._bind_if_stale()
        if self._momenta_between is None:
            return None
        _, _, low_weight, high_weight = self._weights(count("step", step))
        return [low * low_weight + high * high_weight for low, high in self._momenta_between]

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates at the present step (torch's name for ``lr_at(last_epoch)``)."""
        return list(self.lr_at(max(0, self.last_epoch)))

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rates that the optimizer's groups hold now; valid from construction on."""
        return read_lrs(self.optimizer.param_groups)

    @property
    def last_batch_iteration(self) -> int:
        """One less than the number of finished optimizer steps, which is DeepSpeed's way to count."""
        return self.last_epoch - 1

    @property
    def _last_lr(self) -> list[float | Tensor]:  # type: ignore[override]
        return self.get_last_lr()

    # The clock -------------------------------------------------------------------------------------------------------

    @property
    def is_following(self) -> bool:
        """Whether the optimizer's own steps advance the schedule."""
        return self._clock is not None

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step and write the new values; with ``epoch``, go to that step.

        While the schedule follows its optimizer, a call without ``epoch`` changes nothing.
        """
        if self._step_watch is not None:
            self._stop_watching()
        if epoch is None:
            if self._clock is not None:
                return
            epoch = self.last_epoch + 1
        else:
            self._position_was_told()
        self._go_to(epoch)

    def follow_optimizer(self) -> None:
        """Advance from now on whenever the optimizer has really stepped, and only then.

        Accumulated micro-batches, steps that a gradient scaler skipped and the other optimizers of a manual loop do
        not count. Calling it twice is the same as calling it once.

        Raises:
            ValueError: if another schedule follows the same optimizer.
        """
        self._stop_watching()
        if self._clock is None:
            name = type(self).__name__
            self._clock = OptimizerClock(self.optimizer, name, self._tick, self._writes_on_cuda)
            self._restore_watch = RestoreWatch(self)

    def make_capturable(self) -> None:
        """Turn the optimizer's float lr (and first beta, where momentum is scheduled) into tensors, now and for good.

        For a compiled or captured optimizer step, which would not see a new float. To be called before compiling and
        capturing. An optimizer's state that is loaded later is turned as well.

        Raises:
            ValueError: if the optimizer does not support it; nothing is changed then.
        """
        make_capturable(self.optimizer, momentum=self._momenta_between is not None)
        self._stop_watching()
        self._capturable = True
        self._writer = None
        self._go_to(self.last_epoch)

    def unfollow_optimizer(self) -> None:
        """Give the stepping back to calls of :meth:`step`."""
        self._stop_watching()
        if self._clock is not None:
            self._clock.stop()
            self._clock = None
        if self._restore_watch is not None:
            self._restore_watch.stop()
            self._restore_watch = None

    def _tick(self) -> None:
        self._go_to(self.last_epoch + 1)

    def _writes_on_cuda(self) -> bool:
        return self._writer is not None and self._writer.on_cuda

    def _stop_watching(self) -> None:
        if self._step_watch is not None:
            self._step_watch.stop()
            self._step_watch = None

    def _position_was_told(self) -> None:
        if self._restore_watch is not None:
            self._restore_watch.position_was_told()

    def _go_to(self, step: int) -> ParamGroupWriter:
        # The hot path, once per optimizer step: few calls, no allocation that grows with the groups.
        self.last_epoch = step
        writer, groups = self._writer, self.optimizer.param_groups
        if writer is None or writer.groups is not groups or writer.size != len(groups):
            writer = self._bind()
        # SequentialLR sets a scheduler that has not had its turn yet to -1: that one must not write.
        if step >= 0 and not writer.write(self._weights(step)):
            writer = self._bind()
            writer.write(self._weights(step))
        return writer

    def _bind_if_stale(self) -> None:
        groups = self.optimizer.param_groups
        if self._writer is None or self._writer.groups is not groups or self._writer.size != len(groups):
            self._bind()

    def _bind(self) -> ParamGroupWriter:
        """Meet the optimizer's param groups: at construction, after its state was loaded, when one was added."""
        groups = self.optimizer.param_groups
        if self._capturable:
            make_capturable(self.optimizer, momentum=self._momenta_between is not None)
        # The lrs of known groups were fixed at construction: a loaded checkpoint must not bring back old ones.
        new_groups = groups[len(self.base_lrs) :]
        check_groups(self.optimizer)
        self._own_momenta += read_momenta(new_groups)
        self.base_lrs += [float(group.get("initial_lr", group["lr"])) for group in new_groups]
        self._lrs_between, self._momenta_between = self._lr_ranges(), self._momentum_ranges()
        self._writer = ParamGroupWriter(self.optimizer, self._lrs_between, self._momenta_between)
        if self._writer.has_tensors and self._load_hook is None:
            # At once, not at the next step: a graph captured in between would read memory that is then left.
            itself = weakref.ref(self)
            self._load_hook = self.optimizer.register_load_state_dict_post_hook(lambda _: _bind_again(itself()))
        # Only now: a refused constructor leaves the optimizer as it was.
        for group, own_lr in zip(new_groups, read_lrs(new_groups), strict=True):
            group.setdefault("initial_lr", own_lr)
        return self._writer

    # torch's hooks for SequentialLR ----------------------------------------------------------------------------------

    def _initial_step(self) -> None:
        self._go_to(self.last_epoch + 1)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._go_to(self.last_epoch + 1 if epoch is None else epoch)

    # State -----------------------------------------------------------------------------------------------------------

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """Return the hyperparameters that a configuration may give: the constructor's own, by name."""
        signature = inspect.signature(cls.__init__).parameters
        return {name: p for name, p in signature.items() if name not in ("self", "optimizer", "last_batch_iteration")}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters in force, under their constructor names."""
        return {name: getattr(self, name) for name in self.parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the hyperparameters only to tell on loading which of them have changed."""
        # A scheduler that has not had its turn yet may stand at -1 or, in nested SequentialLRs, below it.
        position = max(-1, self.last_epoch)
        return {
            "type": type(self).__name__,
            "last_epoch": position,
            "in_charge": self._in_charge(),
            "sets_momentum": self._momenta_between is not None,
            "own_lrs": [float(lr) for lr in self.base_lrs] if self.scales_own_lr() else None,
            "hyperparameters": self.hyperparameters,
        }

    def _in_charge(self) -> bool:
        """Tell whether the optimizer holds this schedule's lrs: in SequentialLR it may be another scheduler's turn."""
        own = self.lr_at(max(0, self.last_epoch))
        held = [float(lr) for lr in self.get_last_lr()]
        return self.last_epoch >= 0 and all(map(partial(math.isclose, rel_tol=1e-6), held, own))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved position and write its values at once, computed with the configuration in force now.

        Only where another scheduler had set the optimizer's lr when the state was saved, nothing is written.
        A state that DeepSpeed saved (``last_batch_iteration``) is understood too.

        Raises:
            ValueError: if ``state_dict`` holds no position, or is that of a scheduler that is not of this package:
                its position may count epochs.
        """
        position = position_in(state_dict, type(self).__name__)
        own_lrs = [float(lr) for lr in self.base_lrs] if self.scales_own_lr() else None
        now = {"type": type(self).__name__, "hyperparameters": self.hyperparameters}
        changed = changes_since(state_dict, now, own_lrs)
        if changed:
            warnings.warn(
                f"{type(self).__name__} resumes at step {position} with other hyperparameters than were saved; those"
                f" in force now are used: {'; '.join(changed)}",
                stacklevel=2,
            )
        self._position_was_told()
        if state_dict.get("sets_momentum") and self._momenta_between is None:
            # With the optimizer's state came a momentum from somewhere in a cycle that is no longer wanted.
            write_momenta(self.optimizer.param_groups, self._own_momenta)
        # Loaded inside SequentialLR or ChainedScheduler, it must not overwrite the lr of the one whose turn it was.
        if state_dict.get("in_charge", True):
            self._go_to(position)
        else:
            self.last_epoch = position

    def __getstate__(self) -> dict[str, Any]:
        # Optimizers drop their hooks when copied or pickled; the copy registers its own, and meets its own tensors.
        left_out = dict.fromkeys(("_clock", "_step_watch", "_restore_watch", "_load_hook", "_writer"))
        return {**self.__dict__, **left_out, "_follow": self._clock is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        follow = state.pop("_follow")
        self.__dict__.update(state)
        if follow:
            self.follow_optimizer()


def _bind_again(schedule: ClosedFormLR | None) -> None:
    if schedule is not None:
        schedule._bind()


def _torch_optimizer(optimizer: Any) -> Optimizer:
    """Return ``optimizer``, or the torch optimizer inside a wrapper (Lightning's, DeepSpeed's, SAM's, Lookahead's)."""
    groups = getattr(optimizer, "param_groups", None)
    for name in ("optimizer", "base_optimizer"):
        inner = getattr(optimizer, name, None)
        # With param groups of its own, the inner one is not the one that is asked to step.
        if isinstance(inner, Optimizer) and (inner.param_groups is groups or not isinstance(optimizer, Optimizer)):
            return inner
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
