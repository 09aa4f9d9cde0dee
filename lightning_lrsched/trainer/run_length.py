"""How many optimizer steps a training run takes, asked of a Trainer."""

from __future__ import annotations

import math
from typing import Any

from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.by_name import callbacks_named


def run_length_of(trainer: Any) -> RunLength:
    """Ask a Trainer that is about to fit; None gives a run of unknown length, a RunLength itself.

    Accumulation (also one that GradientAccumulationScheduler changes from epoch to epoch), ``max_steps``,
    ``max_epochs``, ``limit_train_batches`` and the loader's ``drop_last`` count. Under manual optimization each
    optimizer is taken to step once per batch.
    """
    if isinstance(trainer, RunLength):
        return trainer
    if trainer is None:
        return RunLength()
    batches = _batches_per_epoch(trainer)
    max_steps = _max_steps(trainer)
    accumulation = _accumulation(trainer)
    per_epoch, why_no_epoch = None, ""
    if batches is None:
        why_no_epoch = (
            "the train dataloader has no length; set Trainer(limit_train_batches=<number of batches>),"
            " or write a number of optimizer steps"
        )
    elif len(set(accumulation.values())) > 1:
        why_no_epoch = (
            "GradientAccumulationScheduler changes the number of steps from epoch to epoch;"
            " write a number of optimizer steps, or a fraction of the run"
        )
    else:
        per_epoch = math.ceil(batches / accumulation[0])
    total, why_no_total = _total(trainer, batches, accumulation, max_steps)
    return RunLength(total, per_epoch, why_no_total, why_no_epoch)


def _total(
    trainer: Any, batches: int | None, accumulation: dict[int, int], max_steps: int | None
) -> tuple[int | None, str]:
    remedy = "set Trainer(max_steps=<number of steps>), or write a number of optimizer steps"
    # Lightning: None means 1000 unless max_steps or max_time ends the run; the fit loop has decided by now.
    if trainer.max_epochs in (-1, None):
        cause = "max_time" if callbacks_named(trainer, "Timer") else "max_epochs=-1"
        return max_steps, f"the Trainer has {cause} and no max_steps; {remedy}"
    if batches is None:
        return max_steps, (
            "the train dataloader has no length and the Trainer no max_steps;"
            f" set Trainer(limit_train_batches=<number of batches>), {remedy}"
        )
    # The steps of each epoch: the last group of an epoch's micro-batches is stepped even when it is not full.
    ends = [*sorted(accumulation)[1:], max(trainer.max_epochs, 1)]
    total = 0
    for start, end in zip(sorted(accumulation), ends, strict=True):
        epochs = max(0, min(end, max(trainer.max_epochs, 1)) - start)
        total += epochs * math.ceil(batches / accumulation[start])
    return total if max_steps is None else min(total, max_steps), ""


def _batches_per_epoch(trainer: Any) -> int | None:
    # At on_fit_start and in configure_optimizers the loaders are not made yet: as estimated_stepping_batches does.
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return int(batches) if math.isfinite(batches) and batches >= 1 else None


def _accumulation(trainer: Any) -> dict[int, int]:
    """Return first epoch -> accumulated batches from then on."""
    for callback in callbacks_named(trainer, "GradientAccumulationScheduler"):
        return {0: 1, **callback.scheduling}
    return {0: trainer.accumulate_grad_batches}


def _max_steps(trainer: Any) -> int | None:
    steps: int | None = trainer.max_steps
    if steps is None or steps < 0:
        return None
    module = getattr(trainer, "lightning_module", None)
    if getattr(module, "automatic_optimization", True):
        return steps
    # Lightning's max_steps is compared with the steps of all optimizers together.
    return math.ceil(steps / max(1, len(trainer.optimizers)))
