"""RangeTest: an LR range test in a training loop of one's own, with torch alone or with Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.optim.hyperparameters import torch_optimizer
from lightning_lrsched.optim.snapshot import ModelSnapshot, generator_states, global_states, is_one_of, reshard
from lightning_lrsched.range_test.loss_watch import (
    DEFAULT_SMOOTHING,
    DIVERGENCE_FACTOR,
    SETTLING_STEPS,
    StopReason,
    device_of,
)
from lightning_lrsched.range_test.range_test import MAX_BATCHES_WITHOUT_STEP, RangeTestRun
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.sweep import MAX_SKIPPED_STEPS, SweepSettings, documented
from lightning_lrsched.schedules.length import Horizon

Batch = TypeVar("Batch")


@documented
class RangeTest:
    """Turns a training loop of one's own into an LR range test.

    The learning rate grows from one optimizer step to the next while the loop reports its losses. :meth:`batches` ends
    the loop when the loss diverges or is no longer finite, at ``max_lr``, or after ``num_steps``. At the end of the
    ``with`` block, also after an exception, model, optimizer, what ``also`` names, random numbers and the loader's
    generators are put back as they were; :attr:`result` leads on to a training configuration.

    {sweeps}

    The loop does what it does in training: it may accumulate gradients, scale them, pass a closure to ``step``, and run
    on several devices. Model and optimizer may be those that Lightning Fabric's ``setup`` returns. It must not step a
    scheduler of this optimizer.

    Args:
        model: the module that is trained; several: ``torch.nn.ModuleList([first, second])``.
        optimizer: the optimizer whose learning rate is swept.
        {settings}
        also: whatever else the loop changes and has a ``state_dict`` and a ``load_state_dict``: other optimizers, a
            gradient scaler, a loader that keeps its position. It is put back too.
        total_steps: length of the training that the test is for [optimizer steps]; needed only where one of the lengths
            above depends on it.
        steps_per_epoch: length of one of its epochs [optimizer steps]; likewise.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, if the test would never end, or if an optimizer trains a parameter that
            is not part of ``model``.

    Source:
        L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3.

    Example:
        >>> inputs = torch.randn(64, 8, 4)
        >>> loader = [(x, x.sum(1, keepdim=True)) for x in inputs]
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        >>> with RangeTest(model, optimizer, max_lr=10.0, num_steps=100) as test:
        ...     for x, y in test.batches(loader):
        ...         loss = torch.nn.functional.mse_loss(model(x), y)
        ...         loss.backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...         test.record(loss)
        >>> test.result.one_cycle(total_num_steps=1000)["type"]
        'OneCycle'
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        lr_range_test_min_lr: float | list[float] | None = None,
        lr_range_test_step_size: int | float | str | None = None,
        lr_range_test_step_rate: float | None = None,
        lr_range_test_staircase: bool | None = None,
        *,
        mode: str | None = None,
        max_lr: float | None = None,
        num_steps: int | float | str | None = None,
        divergence_factor: float | None = DIVERGENCE_FACTOR,
        smoothing: float = DEFAULT_SMOOTHING,
        prior: float | str | None = "auto",
        also: Sequence[Any] = (),
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        settings = SweepSettings.of(locals())
        if not settings.has_an_end:
            raise ValueError("a linear test needs an end: give max_lr or num_steps")
        self._settings = settings.resolved(Horizon.given(total_steps, steps_per_epoch))
        self._model = model
        self._optimizer = torch_optimizer(optimizer)
        # The state_dict of Fabric's wrapper gathers what is sharded; other wrappers have a state of their own.
        self._saved = [one.optimizer if is_one_of(one, "_FabricOptimizer") else one for one in (optimizer, *also)]
        self._check_parameters()
        self._run: RangeTestRun | None = None
        self._longest_step = 1
        self._result: RangeTestResult | None = None

    def _check_parameters(self) -> None:
        if not isinstance(self._model, Module):
            raise TypeError(
                f"model must be a torch.nn.Module, got {type(self._model).__name__}; several models:"
                " torch.nn.ModuleList([first, second])"
            )
        reshard(self._model)  # only the shards are the optimizer's parameters
        known = {id(parameter) for parameter in self._model.parameters()}
        for optimizer in self._saved:
            for group in getattr(optimizer, "param_groups", ()):
                if any(id(parameter) not in known for parameter in group["params"]):
                    raise ValueError(
                        f"{type(optimizer).__name__} trains a parameter that is not part of model, so the range test"
                        " could not put it back: pass all that is trained, torch.nn.ModuleList([first, second])"
                    )

    @property
    def result(self) -> RangeTestResult:
        """The result of the test.

        Raises:
            RuntimeError: if the test has not ended yet.
        """
        if self._result is None:
            raise RuntimeError("the LR range test has not ended yet: read its result after the 'with' block")
        return self._result

    def __enter__(self) -> RangeTest:
        if self._run is not None:
            raise RuntimeError("this LR range test is running already")
        self._result, self._longest_step = None, 1
        self._state = LoopState(self._model, self._saved)
        try:
            self._run = RangeTestRun(self._settings, self._optimizer, self._state)
            self._run.sweep.warn_of_length()
        except BaseException:
            if self._run is None:
                self._state.restore()
            else:
                self._end()
            raise
        return self

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Return the batches of ``loader``, from its beginning again and again, until the test is over.

        Where the loop takes its data from elsewhere, ``itertools.repeat(None)`` will do.

        Raises:
            RuntimeError: outside the ``with`` block.
            ValueError: while they are used: if there are none, if nothing is recorded or no step made for a long time,
                or if something else has set the learning rate.
        """
        self._running("batches")
        self._state.add_data(loader)
        return self._batches(loader)

    def _batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        while self._running("batches").verdict is None:
            empty = True
            for batch in loader:
                empty = False
                self._running("batches").start_batch()
                yield batch
                self._end_batch(self._running("batches"))
                if self._running("batches").verdict is not None:
                    return
            if empty:
                raise ValueError(
                    "the loader has no batches, or no more: one that can be gone through only once (a generator) is"
                    " used up before the test is over"
                )

    def record(self, loss: Tensor | float) -> None:
        """Add a loss of the current batch, before it is scaled or divided for the backward pass.

        The loss of an optimizer step is the mean of those that are recorded since the step before, and over all ranks.
        Whether it is recorded before or after ``optimizer.step()`` makes no difference.

        Raises:
            RuntimeError: outside the ``with`` block.
            TypeError: if it is no number.
            ValueError: if it is a tensor of several numbers.
        """
        run = self._running("record")
        if not isinstance(loss, (Tensor, int, float)):
            raise TypeError(f"record: loss must be a tensor or a number, got {type(loss).__name__}")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"record: loss must be one number, got a tensor of shape {tuple(loss.shape)}")
        value = torch.as_tensor(loss).detach().reshape(())
        run.sweep.add(value.to(device_of(self._optimizer), non_blocking=True))

    def _running(self, method: str) -> RangeTestRun:
        if self._run is None:
            raise RuntimeError(f"{method}: only inside 'with RangeTest(...) as test:'")
        return self._run

    def _end_batch(self, run: RangeTestRun) -> None:
        sweep = run.sweep
        batches = sweep.stalled + 1
        if sweep.advance():
            self._longest_step = max(self._longest_step, batches)
            if not sweep.losses.has_losses and sweep.finished >= SETTLING_STEPS:
                raise ValueError(
                    f"no loss was recorded in {sweep.finished} optimizer steps: call record(loss) in the loop"
                )
        # A gradient scaler says nothing to the host when it skips a step: the loop may as well be accumulating.
        elif sweep.finished and sweep.stalled >= MAX_SKIPPED_STEPS * self._longest_step:
            sweep.skip()
        elif sweep.stalled == MAX_BATCHES_WITHOUT_STEP:
            raise ValueError(f"the loop has not stepped this {type(self._optimizer).__name__} in {batches} batches")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._running("end")
        if kind is None:
            run.sweep.advance()  # where the loop was left in the middle of a batch
        self._end(wait=kind is None)

    def _end(self, *, wait: bool = False) -> None:
        run, self._run = self._running("end"), None
        try:
            run.end(StopReason.INTERRUPTED, wait=wait)
        finally:
            self._result = run.result


class LoopState:
    """What a loop without a Trainer changes: the model, optimizers and the like, random numbers, the loader's position.

    Args:
        model: the module that is trained.
        saved: all of its optimizers, and whatever else has a ``state_dict`` and a ``load_state_dict``.
    """

    def __init__(self, model: Module, saved: Sequence[Any]) -> None:
        self._model, self._saved = model, saved
        self._resets = global_states()
        self._before = ModelSnapshot(model, saved)
        self._marked = self._before

    def add_data(self, loader: Any) -> None:
        """Remember the generators of the loader, too."""
        self._resets += generator_states(loader)

    def mark(self) -> None:
        """Remember where each sweep begins: the loop may have prepared the model since the test began."""
        self._marked = ModelSnapshot(self._model, self._saved, earlier=self._before)

    def rewind(self) -> None:
        """Go back there."""
        self._marked.restore(keep=True)

    def restore(self) -> None:
        """Put everything back as it was before the test."""
        self._marked = self._before  # the other copies are no longer needed
        self._before.restore()
        for reset in self._resets:
            reset()
