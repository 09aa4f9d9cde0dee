"""The length of a training run in optimizer steps: those in the checkpoint plus those still to come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed

from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.deepspeed_engine import applied_steps, batches_for_steps, engine_of, uses_engine
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, loaded_checkpoint

NO_TRAINER = "the length of the run is not known here: pass trainer=..., or write a number of optimizer steps"
REMEDY = "set Trainer(max_steps=<number of steps>), or write a number of optimizer steps"


def run_length_of(trainer: TrainerLike | RunLength | None, start: Start | None = None) -> RunLength:
    """Return the length of the run that a Trainer is about to fit, as a schedule that begins or resumes in it counts.

    On a resume that is the number of steps in the checkpoint plus those still to come, whatever the batch size,
    accumulation or number of devices was before. Where these have changed, an epoch is an average epoch of the run. In
    a second fit of the same trainer, where schedules begin anew, it is the length of that fit.

    Accumulation (also by GradientAccumulationScheduler, whose keys are read as epochs), ``max_steps``, ``max_epochs``,
    ``limit_train_batches`` and the loader's ``drop_last`` are taken into account. Under manual optimization each
    optimizer is assumed to step once per batch. In a run on several devices the shortest loader decides for all. A
    DeepSpeed engine accumulates over the end of an epoch, and makes no step of a group that the run leaves unfinished.

    Args:
        trainer: the Trainer; None gives a run of unknown length; a RunLength is returned as it is.
        start: where the fit begins, if already known; the Trainer drops its checkpoint when training starts.
    """
    if isinstance(trainer, RunLength):
        return trainer
    if trainer is None:
        return RunLength(why_no_total=NO_TRAINER, why_no_epoch=NO_TRAINER)
    batches = batches_per_epoch(trainer)
    every = accumulation(trainer)
    start = (Start.of(trainer) if start is None else start).for_epochs_of(batches)
    total, why_no_total = _total(trainer, batches, every, start)
    per_epoch, why_no_epoch = _steps_per_epoch(trainer, batches, every, start)
    return RunLength(total, per_epoch, why_no_total, why_no_epoch)


@dataclass(frozen=True)
class Start:
    """Where a fit begins.

    Args:
        steps: optimizer steps that a resumed schedule has made (under manual optimization: batches).
        global_step: Lightning's count, with which it compares ``max_steps``; 0 where it is ``steps``.
        epochs: finished epochs.
        batches: finished batches of the next epoch.
        after_batch: saved in ``on_train_batch_end``: if an epoch has fewer batches now, Lightning starts it again.
    """

    steps: int = 0
    global_step: int = 0
    epochs: int = 0
    batches: int = 0
    after_batch: bool = False

    @classmethod
    def of(cls, trainer: TrainerLike) -> Start:
        """Read it from the checkpoint that the fit resumes from, else from what the Trainer has done before."""
        checkpoint = loaded_checkpoint(trainer)
        if checkpoint:
            start, engine = cls._in_checkpoint(checkpoint, automatic=_is_automatic(trainer)), engine_of(trainer)
            if engine is None:
                return start
            # Without an engine's own files in it, Lightning's count is all that is known.
            steps = applied_steps(engine) if engine.global_steps else start.steps
            return replace(start, steps=steps, global_step=checkpoint["global_step"])
        # A second fit begins with a whole epoch, also after one that was stopped in the middle of it.
        return cls(global_step=trainer.global_step, epochs=trainer.fit_loop.epoch_progress.current.processed)

    @classmethod
    def _in_checkpoint(cls, checkpoint: Mapping[str, Any], *, automatic: bool) -> Start:
        loop = checkpoint.get("loops", {}).get("fit_loop")
        if loop is None:
            return cls(steps=checkpoint["global_step"], epochs=checkpoint["epoch"])
        epoch, progress = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        steps = checkpoint["global_step"] if automatic else progress["total"]["processed"]
        if epoch["processed"] >= epoch["started"]:
            return cls(steps=steps, epochs=epoch["processed"])
        batches = progress["current"]["processed"]
        after_batch = progress["current"]["completed"] < batches
        epochs = epoch["processed"] + (after_batch and progress["is_last_batch"])
        return cls(steps=steps, epochs=epochs, batches=batches, after_batch=after_batch)

    def for_epochs_of(self, batches: int | None) -> Start:
        """Return where the fit begins in a run with this number of batches per epoch."""
        begins_anew = self.after_batch and batches is not None and self.batches >= batches
        return replace(self, batches=0) if begins_anew else self


def _total(
    trainer: TrainerLike, batches: int | None, accumulation: Mapping[int, int], start: Start
) -> tuple[int | None, str]:
    max_steps = _max_steps(trainer, start)
    if uses_engine(trainer):
        max_steps = _max_steps_of_engine(max_steps, batches, accumulation[0], start)
    # Lightning: None means 1000 unless max_steps or max_time ends the run; the fit loop has decided by now.
    if trainer.max_epochs in (-1, None):
        cause = "max_time" if callbacks_named(trainer, "Timer") else "max_epochs=-1"
        return max_steps, f"the Trainer has {cause} and no max_steps; {REMEDY}"
    if batches is None:
        return max_steps, (
            "the train dataloader has no length and the Trainer no max_steps;"
            f" set Trainer(limit_train_batches=<number of batches>), {REMEDY}"
        )
    total = start.steps + _steps_to_come(trainer, batches, accumulation, start)
    return total if max_steps is None else min(total, max_steps), ""


def _steps_to_come(trainer: TrainerLike, batches: int, accumulation: Mapping[int, int], start: Start) -> int:
    """Return the steps that ``max_epochs`` leaves.

    The last group of an epoch's micro-batches is stepped even when it is not full, except by a DeepSpeed engine.
    """
    last = max(trainer.max_epochs or 0, 1)
    if uses_engine(trainer):
        return max(0, (last - start.epochs) * batches - start.batches) // accumulation[0]
    firsts = sorted(accumulation)
    steps = 0
    for first, end in zip(firsts, [*firsts[1:], last], strict=True):
        epochs = max(0, min(end, last) - max(first, start.epochs))
        of_an_epoch = math.ceil(batches / accumulation[first])
        steps += epochs * of_an_epoch
        if first <= start.epochs < min(end, last):
            steps -= of_an_epoch if start.batches >= batches else start.batches // accumulation[first]
    return steps


def _steps_per_epoch(
    trainer: TrainerLike, batches: int | None, accumulation: Mapping[int, int], start: Start
) -> tuple[int | None, str]:
    if batches is None:
        return None, (
            "the train dataloader has no length; set Trainer(limit_train_batches=<number of batches>),"
            " or write a number of optimizer steps"
        )
    if len(set(accumulation.values())) > 1:
        return None, (
            "GradientAccumulationScheduler changes the number of steps from epoch to epoch;"
            " write a number of optimizer steps, or a fraction of the run"
        )
    steps: float = math.ceil(batches / accumulation[0])
    if uses_engine(trainer) and batches % accumulation[0]:
        steps = batches / accumulation[0]
    as_before = start.steps in (0, int(start.epochs * steps) + start.batches // accumulation[0])
    if as_before or not trainer.max_epochs or trainer.max_epochs < 0:
        return cast("int", steps), ""
    average = (start.steps + _steps_to_come(trainer, batches, accumulation, start)) / trainer.max_epochs
    return cast("int", average), ""  # a length in epochs is rounded after multiplication


def batches_per_epoch(trainer: TrainerLike) -> int | None:
    """Return the batches of an epoch on the rank that has the fewest; None: not known."""
    with train_loaders(trainer):
        least = torch.distributed.ReduceOp.MIN if torch.distributed.is_available() else None
        batches = over_ranks(float(trainer.num_training_batches), trainer, least)
    return int(batches) if math.isfinite(batches) and batches >= 1 else None


@contextmanager
def train_loaders(trainer: TrainerLike) -> Iterator[Any]:
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


def over_ranks(value: float, trainer: TrainerLike, operation: Any) -> float:
    """Return the least, or the sum, of the values that all ranks have."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    reduced = torch.tensor(value, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(reduced, operation)
    return reduced.item()


def accumulation(trainer: TrainerLike) -> dict[int, int]:
    """Return first epoch -> accumulated batches from then on."""
    for callback in callbacks_named(trainer, "GradientAccumulationScheduler"):
        return {0: 1, **callback.scheduling}
    return {0: trainer.accumulate_grad_batches}


def _max_steps(trainer: TrainerLike, start: Start) -> int | None:
    if trainer.max_steps is None or trainer.max_steps < 0:
        return None
    steps = max(0, trainer.max_steps - start.global_step)
    # Lightning's max_steps is compared with the steps of all optimizers together.
    return steps if _is_automatic(trainer) else math.ceil(steps / max(1, len(trainer.optimizers)))


def _max_steps_of_engine(steps: int | None, batches: int | None, accumulate: int, start: Start) -> int | None:
    """Return the engine's steps where Lightning's count, which ends the run, is to make ``steps`` more."""
    if steps is None:
        return None
    # Of a loader without a length no epoch is known to end.
    to_come = steps * accumulate if batches is None else batches_for_steps(steps, batches, accumulate, start.batches)
    return None if to_come is None else start.steps + to_come // accumulate


def steps_made(trainer: TrainerLike) -> int:
    """Return how many steps of its schedule's optimizer a trainer counts; under manual optimization, batches."""
    engine = engine_of(trainer) if _is_automatic(trainer) else None
    return trainer.fit_loop.epoch_loop._batches_that_stepped if engine is None else int(engine.global_steps)


def steps_before(trainer: TrainerLike) -> int:
    """Return how many optimizer steps the trainer has made before this fit; 0 where it resumes from a checkpoint."""
    if loaded_checkpoint(trainer):
        return 0
    return trainer.global_step if _is_automatic(trainer) else trainer.global_step // max(1, len(trainer.optimizers))


def _is_automatic(trainer: TrainerLike) -> bool:
    return bool(getattr(getattr(trainer, "lightning_module", None), "automatic_optimization", True))
