"""The length of a training run in samples or tokens: the position in the checkpoint plus what is still to come."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch.distributed
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_lrsched.schedulers.durations import STEPS, RunLength
from lightning_lrsched.trainer.deepspeed_engine import uses_engine
from lightning_lrsched.trainer.progress import Tokens, ranks_per_batch
from lightning_lrsched.trainer.protocol import TrainerLike
from lightning_lrsched.trainer.run_length import (
    Start,
    accumulation,
    batches_per_epoch,
    over_ranks,
    run_length_of,
    train_loaders,
)


def run_length_in(
    unit: str, trainer: TrainerLike, position: int, tokens: Tokens | None = None, start: Start | None = None
) -> RunLength:
    """Return the length of the run that a Trainer is about to fit, in the unit of a schedule.

    Partial last batches count what they hold; the batches of a stream whose length is not known are taken to be full.

    Args:
        unit: ``"step"``, ``"sample"`` or ``"token"``.
        trainer: the Trainer.
        position: of the schedule in the checkpoint that the fit resumes from, else 0.
        tokens: tokens per sample, or a function of the batch, with which the length is not known.
        start: where the fit begins, if already known.
    """
    if unit == STEPS:
        return run_length_of(trainer, start)
    if callable(tokens):
        why = "tokens are counted batch by batch, by a function; write a number of tokens"
        return RunLength(None, None, why, why)
    with train_loaders(trainer) as loaders:
        run = run_length_of(trainer, start)
        if not isinstance(loaders, DataLoader) or type(loaders.batch_sampler) is not BatchSampler:
            kind = "several loaders" if isinstance(loaders, (dict, list, tuple)) else f"this {type(loaders).__name__}"
            why = f"the samples in the batches of {kind} are not known; write a number of {unit}s"
            return RunLength(None, None, why, why)
        return _in_samples(run, trainer, loaders, position, tokens or 1, start)


def _in_samples(
    run: RunLength, trainer: TrainerLike, loader: Any, position: int, tokens: int, start: Start | None
) -> RunLength:
    batches = batches_per_epoch(trainer)
    start = (Start.of(trainer) if start is None else start).for_epochs_of(batches)

    def samples(end: int, begin: int = 0) -> int:
        """Return what batches hold, counted from the beginning of an epoch, on all ranks."""
        return tokens * _over_all_data(_held(loader, batches, end) - _held(loader, batches, begin), trainer)

    every = accumulation(trainer)
    total = None
    if run.total_steps is not None and len(set(every.values())) == 1:
        end = _batches_until(run.total_steps - start.steps, trainer, batches, every[0], start.batches)
        total = position + samples(end, start.batches)
    elif run.total_steps is not None:
        run = replace(run, why_no_total=run.why_no_epoch)  # accumulation changes from epoch to epoch
    return replace(run, total_steps=total, steps_per_epoch=None if batches is None else samples(batches))


def _batches_until(steps: int, trainer: TrainerLike, batches: int | None, every: int, done: int) -> int:
    """Return the batches, counted from the beginning of the present epoch, with which ``steps`` more are finished."""
    if batches is None or uses_engine(trainer):
        return done + steps * every  # groups run on across epochs
    epochs, rest = divmod(done // every + steps, math.ceil(batches / every))
    return epochs * batches + rest * every


def _held(loader: Any, batches: int | None, number: int) -> int:
    """Return how many samples ``number`` batches hold, counted from the first batch of an epoch."""
    size, of_batch = _samples_per_epoch(loader), int(loader.batch_sampler.batch_size)
    if batches is None:
        return number * of_batch
    epochs, rest = divmod(number, batches)
    return int(epochs * min(batches * of_batch, size) + min(rest * of_batch, size))


def _samples_per_epoch(loader: Any) -> float:
    source = loader.dataset if isinstance(loader.dataset, IterableDataset) else loader.batch_sampler.sampler
    return len(source) if hasattr(source, "__len__") else math.inf


def _over_all_data(number: int, trainer: TrainerLike) -> int:
    """Return the sum over all ranks that read data of their own."""
    if trainer.world_size == 1:
        return number
    summed = over_ranks(number, trainer, torch.distributed.ReduceOp.SUM)
    return int(summed) // ranks_per_batch(trainer)
