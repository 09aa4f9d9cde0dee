"""The horizon of a run: a table of the epochs still to come, from which the lengths in every unit follow."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.distributed
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_lrsched.schedules.length import STEPS, Horizon
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.progress import Tokens, ranks_per_batch
from lightning_lrsched.trainer.protocol import (
    Checkpoint,
    TrainerLike,
    callbacks_named,
    is_automatic,
    loaded_checkpoint,
    repeats_last_batch,
)

ENDLESS = sys.maxsize
"""As a number of epochs or batches: no end is known."""

MANUAL_TOLERANCE = 0.1
"""How many more or fewer steps than batches an optimizer may make, as a fraction of these."""

NO_TRAINER = "the length of the run is not known here: pass trainer=..., or write a number of optimizer steps"
REMEDY = "set Trainer(max_steps=<number of steps>), or write a number of optimizer steps"


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Some epochs in a row that are alike: of each, the batches from ``first`` to ``last``, in groups of ``every``."""

    epochs: int
    first: int
    last: int
    every: int

    @property
    def batches(self) -> int:
        """The batches of each epoch."""
        return max(0, self.last - self.first)

    @property
    def steps(self) -> int:
        """The optimizer steps of each epoch: the last group is stepped even when it is not full."""
        return -(-self.last // self.every) - self.first // self.every if self.batches else 0


@dataclass(frozen=True)
class Start:
    """Where a fit begins.

    Args:
        steps: optimizer steps that a resumed schedule has made (under manual optimization: batches).
        global_step: Lightning's count, with which it compares ``max_steps``.
        epochs: finished epochs.
        batches: finished batches of the next epoch.
        after_batch: saved in ``on_train_batch_end``: if an epoch has fewer batches now, Lightning starts it again.
        first: epoch with which the run has begun, as its schedules count it; a second fit is a run of its own.
    """

    steps: int = 0
    global_step: int = 0
    epochs: int = 0
    batches: int = 0
    after_batch: bool = False
    first: int = 0

    @classmethod
    def of(cls, trainer: TrainerLike) -> Start:
        """Read it from the checkpoint that the fit resumes from, else from what the Trainer has done before."""
        checkpoint, clock = loaded_checkpoint(trainer), clock_of(trainer)
        if not checkpoint:
            # A second fit begins with a whole epoch, also after one that was stopped in the middle of it.
            epochs = trainer.fit_loop.epoch_progress.current.processed
            return cls(global_step=trainer.global_step, epochs=epochs, first=epochs)
        count = "completed" if repeats_last_batch(trainer) else "processed"
        start = cls._in_checkpoint(checkpoint, count, automatic=is_automatic(trainer))
        # Without an engine's own files in it, Lightning's count is all that is known.
        return replace(start, steps=clock.steps or 0) if clock.attempts else start

    @classmethod
    def _in_checkpoint(cls, checkpoint: Checkpoint, count: str, *, automatic: bool) -> Start:
        steps, loop = checkpoint["global_step"], checkpoint.get("loops", {}).get("fit_loop")
        start = cls(steps, steps, checkpoint["epoch"])
        if loop is None:
            return start
        epoch, progress = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        start = replace(start, steps=steps if automatic else progress["total"]["processed"], epochs=epoch["processed"])
        if epoch["processed"] >= epoch["started"]:
            return start
        batches = progress["current"][count]
        after_batch = progress["current"]["completed"] < batches
        epochs = epoch["processed"] + (after_batch and progress["is_last_batch"])
        return replace(start, epochs=epochs, batches=batches, after_batch=after_batch)


@dataclass(frozen=True)
class Limits:
    """What ends the epochs and the run.

    Args:
        batches: of an epoch, on the rank that has the fewest.
        epochs: after which the run ends.
        every: first epoch -> batches in a group that is accumulated, from then on.
        steps: still to come at most, as Lightning counts them.
        carries: whether a group goes on in the next epoch. Lightning counts full groups in each epoch then.
        rate: steps per batch of an optimizer that the module steps itself, where they were measured.
        share: of the steps that Lightning is due to make, how many the optimizer makes.
    """

    batches: int = ENDLESS
    epochs: int = ENDLESS
    every: Mapping[int, int] = field(default_factory=lambda: {0: 1})
    steps: int | None = None
    carries: bool = False
    rate: float | None = None
    share: float = 1.0

    @property
    def known_epoch(self) -> bool:
        """Whether it is known how long an epoch is."""
        return self.batches < ENDLESS

    def rows(self, start: Start) -> list[Row]:
        """Return the epochs to come."""
        rows = list(self._cut(self._epochs(start)))
        if not self.carries:
            return rows
        batches, every = sum(row.epochs * row.batches for row in rows), self.every[0]
        return list(_take(rows, batches - batches % every))  # no step of a group that the run leaves unfinished

    def _epochs(self, start: Start) -> Iterator[Row]:
        epoch, firsts = start.epochs, sorted(self.every)
        begun = 0 if start.after_batch and start.batches >= self.batches else start.batches
        while epoch < self.epochs:
            every = self.every[max(first for first in firsts if first <= epoch)]
            end = epoch + 1 if begun else min([first for first in firsts if first > epoch] + [self.epochs])
            yield Row(min(end, self.epochs) - epoch, begun, self.batches, every)
            epoch, begun = end, 0

    def _cut(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Leave out what comes after the last step, as Lightning counts them."""
        left = self.steps
        for row in rows:
            done = row.first // row.every
            counted = row.last // row.every - done if self.carries else row.steps
            if left is None or left > row.epochs * counted:
                yield row
                left = None if left is None else left - row.epochs * counted
                continue
            if left > 0:
                whole, rest = divmod(left - 1, counted)
                if whole:
                    yield replace(row, epochs=whole)
                yield replace(row, epochs=1, last=min(row.last, (done + rest + 1) * row.every))
            return


def _take(rows: Iterable[Row], batches: int) -> Iterator[Row]:
    """Return the rows up to a number of batches."""
    for row in rows:
        whole = min(row.epochs, batches // row.batches) if row.batches else row.epochs
        batches -= whole * row.batches
        if whole:
            yield replace(row, epochs=whole)
        if whole < row.epochs:
            yield replace(row, epochs=1, last=row.first + batches)
            return


Amount = Callable[[Iterable[Row]], float]
"""What the epochs of some rows hold, in one unit."""


def steps_in(limits: Limits) -> Amount:
    """Return how to count optimizer steps."""
    rate = 1 / limits.every[0] if limits.carries else limits.rate
    if rate is not None:
        return lambda rows: sum(row.epochs * row.batches for row in rows) * rate
    return lambda rows: sum(row.epochs * row.steps for row in rows) * limits.share


def horizon_in(limits: Limits, start: Start, done: int, amount: Amount) -> tuple[int | None, float | None]:
    """Return the length of the run, and of its mean epoch; None: not known.

    Args:
        limits: of the run.
        start: where the fit begins.
        done: position of a schedule there.
        amount: counts what is still to come.
    """
    # Where steps are not batches, Lightning's limit of steps does not say which batch is the last.
    rows = limits.rows(start) if limits.rate is None else replace(limits, steps=None).rows(start)
    ends = all(row.epochs < ENDLESS // 2 and row.last < ENDLESS for row in rows)
    total = done + round(amount(rows)) if ends else None
    if limits.rate is not None and limits.steps is not None:
        total = done + limits.steps if total is None else min(total, done + limits.steps)
    if not limits.known_epoch:
        return total, None
    before = start.epochs - start.first
    whole = limits.steps is None and not limits.carries
    to_come = rows if whole else replace(limits, steps=None, carries=False).rows(start)
    epochs = before + sum(row.epochs for row in to_come)
    if limits.epochs == ENDLESS or not epochs:
        to_come, epochs, done = [Row(1, 0, limits.batches, limits.every[0])], 1, 0
    mean = (done + amount(to_come)) / epochs
    return total, int(mean) if mean == int(mean) else mean


# Reading a Trainer ----------------------------------------------------------------------------------------------------


def horizon_of(
    trainer: TrainerLike | Horizon | None,
    unit: str = STEPS,
    *,
    start: Start | None = None,
    position: int = 0,
    tokens: Tokens | None = None,
    rate: float | None = None,
) -> Horizon:
    """Return the length of the run that a Trainer is about to fit, as a schedule that begins or resumes in it counts.

    On a resume that is what was done before the checkpoint plus what is still to come, whatever the batch size,
    accumulation or number of devices was before; an epoch is then an average epoch of the run. In a second fit of the
    same trainer, where schedules begin anew, it is the length of that fit.

    Accumulation (also by GradientAccumulationScheduler, whose keys are read as epochs), ``max_steps``, ``max_epochs``,
    ``limit_train_batches`` and the loader's ``drop_last`` are taken into account. Under manual optimization each
    optimizer is assumed to step once per batch, unless it was seen to do
    otherwise. In a run on several devices the shortest loader decides for all.
    Partial last batches count the samples that they hold; the batches of a stream whose length is not known are taken
    to be full.

    Args:
        trainer: the Trainer; None gives a run of unknown length; a Horizon is returned as it is.
        unit: ``"step"``, ``"sample"`` or ``"token"``.
        start: where the fit begins, if already known; the Trainer drops its checkpoint when training starts.
        position: of the schedule in the checkpoint that the fit resumes from.
        tokens: tokens per sample, or a function of the batch, with which the length is not known.
        rate: where it was measured, how many steps the optimizer makes for each that Lightning is due to make; under
            manual optimization, per batch. None: one; under manual optimization, what a run that is resumed has shown.
    """
    if isinstance(trainer, Horizon):
        return trainer
    if trainer is None:
        return Horizon(why_no_total=NO_TRAINER, why_no_epoch=NO_TRAINER)
    start = start or Start.of(trainer)
    with train_loaders(trainer) as loader:
        limits = _limits(trainer, start)
        if unit != STEPS:
            return _horizon_in_samples(unit, trainer, loader, limits, start, position, tokens)
        if rate is None and not is_automatic(trainer) and position and start.steps:
            rate = position / start.steps
        if rate is not None and abs(rate - 1) > MANUAL_TOLERANCE and not limits.carries:
            limits = replace(limits, share=rate) if is_automatic(trainer) else replace(limits, rate=rate)
            start = replace(start, steps=position)
        total, per_epoch = horizon_in(limits, start, start.steps, steps_in(limits))
        why_no_total, why_no_epoch = _reasons(trainer, limits)
        if by_step_scheduler(trainer):
            return Horizon(None, None, BY_STEP, BY_STEP)
        if len(set(limits.every.values())) > 1:
            per_epoch, why_no_epoch = None, VARYING
        return Horizon(total, per_epoch, why_no_total, why_no_epoch)


def _horizon_in_samples(
    unit: str, trainer: TrainerLike, loader: object, limits: Limits, start: Start, position: int, tokens: Tokens | None
) -> Horizon:
    if callable(tokens):
        why = "tokens are counted batch by batch, by a function; write a number of tokens"
    elif not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        kind = "several loaders" if isinstance(loader, (dict, list, tuple)) else f"this {type(loader).__name__}"
        why = f"the samples in the batches of {kind} are not known; write a number of {unit}s"
    elif by_step_scheduler(trainer) and limits.steps is not None:
        why = BY_STEP
    else:
        amount = _samples_in(loader, limits, trainer, 1 if tokens is None else tokens)
        return Horizon(*horizon_in(limits, start, position, amount), *_reasons(trainer, limits))
    return Horizon(None, None, why, why)


BY_STEP = (
    "GradientAccumulationScheduler(mode='step') changes the number of batches per step within an epoch; write a number"
    " of optimizer steps"
)


def by_step_scheduler(trainer: TrainerLike) -> bool:
    """Return whether accumulation changes at certain steps, as newer Lightnings may do, and not at epochs."""
    callbacks = callbacks_named(trainer, "GradientAccumulationScheduler")
    return any(getattr(callback, "mode", "epoch") != "epoch" for callback in callbacks)


VARYING = (
    "GradientAccumulationScheduler changes the number of steps from epoch to epoch; write a number of optimizer steps,"
    " or a fraction of the run"
)


def _limits(trainer: TrainerLike, start: Start) -> Limits:
    least = torch.distributed.ReduceOp.MIN if torch.distributed.is_available() else None
    batches = over_ranks(float(trainer.num_training_batches), trainer, least)
    every = {0: trainer.accumulate_grad_batches}
    for callback in callbacks_named(trainer, "GradientAccumulationScheduler"):
        every = {0: 1, **callback.scheduling}
    steps = None
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        steps = max(0, trainer.max_steps - start.global_step)
        if not is_automatic(trainer):  # Lightning compares it with the steps of all optimizers together
            steps = math.ceil(steps / max(1, len(trainer.optimizers)))
    return Limits(
        batches=int(batches) if math.isfinite(batches) and batches >= 1 else ENDLESS,
        # None means 1000 unless max_steps or max_time ends the run; the fit loop has decided by now.
        epochs=ENDLESS if trainer.max_epochs in (-1, None) else max(trainer.max_epochs or 0, 1),
        every=every,
        steps=steps,
        carries=clock_of(trainer).carries,
    )


def _reasons(trainer: TrainerLike, limits: Limits) -> tuple[str, str]:
    """Return why the length of the run, or of an epoch, is not known, if it is not."""
    loader = "the train dataloader has no length"
    remedy = "set Trainer(limit_train_batches=<number of batches>),"
    of_epoch = f"{loader}; {remedy} or write a number of optimizer steps"
    if limits.epochs == ENDLESS:
        cause = "max_time" if callbacks_named(trainer, "Timer") else "max_epochs=-1"
        return f"the Trainer has {cause} and no max_steps; {REMEDY}", of_epoch
    return f"{loader} and the Trainer no max_steps; {remedy} {REMEDY}", of_epoch


def _samples_in(loader: DataLoader[object], limits: Limits, trainer: TrainerLike, tokens: int) -> Amount:
    """Return how to count the samples, or tokens, that the batches hold on all ranks."""
    batches = cast("BatchSampler", loader.batch_sampler)
    of_batch = batches.batch_size
    source: object = loader.dataset if isinstance(loader.dataset, IterableDataset) else batches.sampler
    size = len(source) if limits.known_epoch and isinstance(source, Sized) else math.inf

    def amount(rows: Iterable[Row]) -> float:
        held = sum(row.epochs * (min(row.last * of_batch, size) - min(row.first * of_batch, size)) for row in rows)
        if trainer.world_size > 1:  # ranks that read data of their own
            held = over_ranks(held, trainer, torch.distributed.ReduceOp.SUM) // ranks_per_batch(trainer)
        return tokens * held

    return amount


@contextmanager
def train_loaders(trainer: TrainerLike) -> Iterator[object]:
    """Give the trainer's loader, or several in a mapping or a list, also before Lightning has made them."""
    # At on_fit_start and in configure_optimizers there are none yet; estimated_stepping_batches does the same.
    too_early = trainer.train_dataloader is None
    if too_early:
        trainer.fit_loop.setup_data()
    try:
        yield trainer.train_dataloader
    finally:
        if too_early and loaded_checkpoint(trainer):
            trainer.fit_loop._combined_loader = None  # Lightning restores the saved state of a loader when it is set up


def over_ranks(value: float, trainer: TrainerLike, operation: object) -> float:
    """Return the least, or the sum, of the values that all ranks have."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    reduced = torch.tensor(value, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(reduced, operation)
    return reduced.item()


def steps_made(trainer: TrainerLike) -> int:
    """Return how many steps of its schedule's optimizer a trainer counts; under manual optimization, batches."""
    attempts = clock_of(trainer).attempts if is_automatic(trainer) else None
    return trainer.fit_loop.epoch_loop._batches_that_stepped if attempts is None else attempts


def ended_early(trainer: TrainerLike) -> bool:
    """Return whether a run has ended before its number of epochs, and of steps, where it has one."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    all_epochs = epochs not in (-1, None) and trainer.fit_loop.epoch_progress.current.processed >= epochs
    return not (all_epochs or (steps is not None and 0 <= steps <= trainer.global_step))


def steps_before(trainer: TrainerLike) -> int:
    """Return how many optimizer steps the trainer has made before this fit; 0 where it resumes from a checkpoint."""
    if loaded_checkpoint(trainer):
        return 0
    return trainer.global_step if is_automatic(trainer) else trainer.global_step // max(1, len(trainer.optimizers))
