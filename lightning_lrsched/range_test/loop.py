"""RangeTest: an LR range test in a training loop of one's own, with torch alone or with Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.range_test.divergence import DIVERGENCE_FACTOR, SETTLING_STEPS, StopReason
from lightning_lrsched.range_test.generators import generator_states, global_states
from lightning_lrsched.range_test.result import RangeTestResult
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.smoothing import DEFAULT_SMOOTHING
from lightning_lrsched.range_test.snapshot import ModelSnapshot, is_one_of, reshard
from lightning_lrsched.range_test.sweep import MAX_BATCHES_WITHOUT_STEP, MAX_SKIPPED_STEPS, Sweep
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.schedulers.param_groups import torch_optimizer

Batch = TypeVar("Batch")


class RangeTest:
    """Turns a training loop of one's own into an LR range test.

    The learning rate grows from one optimizer step to the next while the loop reports its losses. :meth:`batches` ends
    the loop when the loss diverges or is no longer finite, at ``max_lr``, or after ``num_steps``. At the end of the
    ``with`` block, also after an exception, model, optimizer, random numbers and the loader's generators are put back
    as they were; :attr:`result` leads on to a training configuration.

    Without a range there are two sweeps, 300 steps at most. A coarse one of 100 steps, from lr 1e-6 to 10, finds the lr
    at which the loss explodes. Model, optimizer and what ``also`` names are put back between two batches, and a fine
    one of 200 steps follows, from a hundredth of that lr to three times as much, while the data go on. The suggestions
    are read from the fine one. There is one sweep where ``mode``, ``max_lr``, ``num_steps`` or one of the first four
    arguments for the lr is given, where the stop rule is off, and where the very first loss is not finite.

    The loop does what it does in training: it may accumulate gradients, scale them, pass a closure to ``step``, and run
    on several devices. Model and optimizer may be those that Lightning Fabric's ``setup`` returns. It must not step a
    scheduler of this optimizer.

    Args:
        model: the module that is trained; several: ``torch.nn.ModuleList([first, second])``.
        optimizer: the optimizer whose learning rate is swept.
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. One float is the lr of the group with the
            largest lr: the ratios between the groups' own learning rates are kept.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps]; also a fraction of the run
            (0.01), epochs (``"2ep"``) or ``"auto"`` (a hundredth of the run).
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``.
        lr_range_test_staircase: hold the lr within each interval.
        mode: ``"exponential"`` or ``"linear"``; None: linear when one of the three linear parameters above is given,
            else exponential.
        max_lr: stop beyond this lr (exponential growth: reach it with the last of ``num_steps``). In a single sweep
            with exponential growth, 10 unless given.
        num_steps: stop after this many optimizer steps; also a fraction of the run, epochs or ``"auto"`` (as long as
            the run). In a single sweep with exponential growth, 200 unless given.
        divergence_factor: fraction of the fall so far that the smoothed loss may climb back before the test stops;
            infinity or None: only a loss that is not finite stops it.
        smoothing: weight of the past in the smoothed loss, per optimizer step, in [0, 1).
        prior: the peak of 1Cycle to which the suggestions are drawn down, the more the less the record says. ``"auto"``
            is what is known of this kind of optimizer, a number what you know yourself, None: the record alone.
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
        linear = {
            "lr_range_test_step_size": lr_range_test_step_size,
            "lr_range_test_step_rate": lr_range_test_step_rate,
            "lr_range_test_staircase": lr_range_test_staircase,
        }
        settings = SweepSettings(
            mode, lr_range_test_min_lr, linear, max_lr, num_steps, smoothing, divergence_factor, prior=prior
        )
        if not settings.has_an_end:
            raise ValueError("a linear test needs an end: give max_lr or num_steps")
        self._settings = settings.resolved(RunLength.given(total_steps, steps_per_epoch))
        self._model = model
        self._optimizer = torch_optimizer(optimizer)
        # The state_dict of Fabric's wrapper gathers what is sharded; other wrappers have a state of their own.
        self._saved = [one.optimizer if is_one_of(one, "_FabricOptimizer") else one for one in (optimizer, *also)]
        self._check_parameters()
        self._sweep: Sweep | None = None
        self._snapshot: ModelSnapshot | None = None
        self._resets: list[Callable[[], object]] = []
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

    # Before -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> RangeTest:
        if self._sweep is not None:
            raise RuntimeError("this LR range test is running already")
        self._result, self._longest_step = None, 1
        self._resets = global_states()
        self._snapshot = ModelSnapshot(self._model, self._saved)
        try:
            self._sweep = Sweep(self._settings, self._optimizer)
            self._resets.append(self._optimizer.register_step_pre_hook(self._check_lr).remove)
            self._sweep.warn_of_length()
        except BaseException:
            if self._sweep is not None:
                self._sweep.schedule.unfollow_optimizer()
            self._restore()
            raise
        return self

    # During -----------------------------------------------------------------------------------------------------------

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Return the batches of ``loader``, from its beginning again and again, until the test is over.

        Where the loop takes its data from elsewhere, ``itertools.repeat(None)`` will do.

        Raises:
            RuntimeError: outside the ``with`` block.
            ValueError: while they are used: if there are none, if nothing is recorded or no step made for a long time,
                or if something else has set the learning rate.
        """
        self._running("batches")
        self._resets += generator_states(loader)
        return self._batches(loader)

    def _batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        while self._running("batches").stop_reason is None:
            empty = True
            for batch in loader:
                empty = False
                yield batch
                self._end_batch(self._running("batches"))
                if self._is_over(self._running("batches")):
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
        sweep = self._running("record")
        if not isinstance(loss, (Tensor, int, float)):
            raise TypeError(f"record: loss must be a tensor or a number, got {type(loss).__name__}")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"record: loss must be one number, got a tensor of shape {tuple(loss.shape)}")
        # Where the parameters are: the mean over ranks is taken on the device that they communicate on.
        device = self._optimizer.param_groups[0]["params"][0].device
        sweep.add(torch.as_tensor(loss).detach().reshape(()).to(device, non_blocking=True))

    def _running(self, method: str) -> Sweep:
        if self._sweep is None:
            raise RuntimeError(f"{method}: only inside 'with RangeTest(...) as test:'")
        return self._sweep

    def _end_batch(self, sweep: Sweep) -> None:
        batches = sweep.stalled + 1
        if sweep.advance():
            self._longest_step = max(self._longest_step, batches)
            self._check_that_there_are_losses(sweep)
        # A gradient scaler says nothing to the host when it skips a step: the loop may as well be accumulating.
        elif sweep.finished and sweep.stalled >= MAX_SKIPPED_STEPS * self._longest_step:
            sweep.skip()
        elif sweep.stalled == MAX_BATCHES_WITHOUT_STEP:
            raise ValueError(f"the loop has not stepped this {type(self._optimizer).__name__} in {batches} batches")

    def _is_over(self, sweep: Sweep) -> bool:
        """Return whether the test is over; where a fine sweep follows, begin it."""
        if sweep.stop_reason is None:
            return False
        assert self._snapshot is not None
        fine = sweep.fine(partial(self._snapshot.restore, keep=True))
        self._sweep = fine or sweep
        return fine is None

    def _check_that_there_are_losses(self, sweep: Sweep) -> None:
        if not sweep.has_losses and sweep.finished >= SETTLING_STEPS:
            raise ValueError(f"no loss was recorded in {sweep.finished} optimizer steps: call record(loss) in the loop")

    def _check_lr(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Raise ValueError where the step that begins would use another lr than will be recorded for it."""
        if torch.compiler.is_compiling() or self._sweep is None:
            return
        schedule = self._sweep.schedule
        expected = schedule.lr_at(schedule.last_epoch)
        for number, (group, lr) in enumerate(zip(self._optimizer.param_groups, expected, strict=True), 1):
            # To compare a tensor, the host would have to wait for its device.
            if not isinstance(group["lr"], Tensor) and group["lr"] != lr:
                raise ValueError(
                    f"something else has set the lr of param group {number} to {group['lr']!r}, where the range test"
                    f" had set {lr!r}: leave the scheduler out of the loop during the test"
                )

    # After ------------------------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sweep = self._running("end")
        try:
            if kind is None:  # after an error a device may no longer answer
                sweep.advance()  # where the loop was left in the middle of a batch
                sweep.wait()
            self._result = sweep.finish(StopReason.INTERRUPTED)
        finally:
            self._restore()

    def _restore(self) -> None:
        snapshot, resets = self._snapshot, self._resets
        self._sweep, self._snapshot, self._resets = None, None, []
        if snapshot is not None:
            snapshot.restore()
        for reset in resets:
            reset()
