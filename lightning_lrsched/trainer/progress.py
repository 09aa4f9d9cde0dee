"""Progress in samples or tokens: what the batches of a fit hold on all ranks, and how far each step has come in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import torch.distributed
from torch import Tensor

from lightning_lrsched.schedules.errors import ParameterValueError, count
from lightning_lrsched.schedules.length import STEPS
from lightning_lrsched.trainer.protocol import ParallelStrategy, TrainerLike

Tokens = int | Callable[[Any], int]
"""Tokens in each sample, or a function that returns the tokens in a batch."""

COUNT_YOURSELF = (
    'write "unit": "token" and LRSchedulerCallback(..., tokens=<function that returns the count of a batch>)'
)


def make_counters(units: Collection[str], tokens: Tokens | None) -> dict[str, BatchCounter]:
    """Return a counter for each of these units that is not the optimizer step.

    Raises:
        TypeError: if ``tokens`` is neither a number nor a function.
        ValueError: if ``tokens`` is missing, or no schedule counts tokens.
    """
    if tokens is None and "token" in units:
        raise ValueError('tokens is missing: "unit": "token" needs a number per sample, or a function of the batch')
    if tokens is not None and "token" not in units:
        raise ValueError('tokens: no schedule counts tokens; write "unit": "token" beside its type and params')
    per_sample = tokens if tokens is None or callable(tokens) else count("tokens", tokens, at_least=1)
    return {unit: BatchCounter(per_sample if unit == "token" else 1) for unit in units if unit != STEPS}


class BatchCounter:
    """Counts the samples or tokens of the batches of a fit, over all ranks.

    What a batch holds is known to the host, and the sum over the ranks is made on the CPU: it begins with the batch and
    is read after the optimizer's step. So all ranks have the same number, and none waits for its device.

    Args:
        tokens: what each sample counts, or a function of the batch.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self._total = self._ranks_per_batch = 0
        self._group: torch.distributed.ProcessGroup | None = None
        self._sums: list[tuple[torch.distributed.Work, Tensor]] = []

    def begin(self, trainer: TrainerLike) -> None:
        """Begin to count; to be called on all ranks.

        Raises:
            ValueError: if the ranks cannot be summed over.
        """
        if trainer.world_size == 1:
            return
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError(
                f"samples and tokens of {trainer.world_size} processes are summed by torch.distributed, which"
                f' {type(trainer.strategy).__name__} does not use: write "unit": "step"'
            )
        self._ranks_per_batch = ranks_per_batch(trainer)
        self._group = torch.distributed.new_group(backend="gloo")

    def add(self, trainer: TrainerLike, batch: object) -> None:
        """Add what a batch holds."""
        number = self._in_batch(batch, trainer.train_dataloader)
        if self._group is None:
            self._total += number
            return
        summed = torch.tensor(number)
        self._sums.append((torch.distributed.all_reduce(summed, group=self._group, async_op=True), summed))

    def total(self) -> int:
        """Return what all batches so far have held, on all ranks."""
        for work, summed in self._sums:
            work.wait()
            self._total += int(summed) // self._ranks_per_batch
        self._sums.clear()
        return self._total

    def end(self) -> None:
        """Release the processes' group; to be called on all ranks."""
        self.total()
        if self._group is not None:
            torch.distributed.destroy_process_group(self._group)
            self._group = None

    def _in_batch(self, batch: object, loaders: object) -> int:
        if not callable(self.tokens):
            return (self.tokens or 1) * samples_in(batch, loaders)
        number = self.tokens(batch)
        if isinstance(number, Tensor) and number.device.type != "cpu":
            raise ValueError(
                f"tokens: the function returned a tensor on {number.device}, and reading it would make every step wait"
                " for the device: have the loader count (collate_fn), and return the whole number in the batch"
            )
        return count("tokens", number.item() if isinstance(number, Tensor) else number)


def ranks_per_batch(trainer: TrainerLike) -> int:
    """Return how many ranks see the same batch: those that share the parts of a model, not the data."""
    replicas: int = cast("ParallelStrategy", trainer.strategy).distributed_sampler_kwargs["num_replicas"]
    return trainer.world_size // replicas


class StepCounter:
    """By how much each finished step of an optimizer advances its schedule: all that was counted since the one before.

    Args:
        batches: the counter of the fit.

    Attributes:
        steps: finished steps in this fit.
        latest: amount of the last one.
        tokens: what each sample counts, or a function of the batch.
    """

    def __init__(self, batches: BatchCounter) -> None:
        self._batches, self._before, self.tokens = batches, batches.total(), batches.tokens
        self.steps = self.latest = 0

    def __call__(self) -> int:
        """Count a step, and return its amount."""
        total = self._batches.total()
        self.latest, self._before = total - self._before, total
        self.steps += 1
        return self.latest


def samples_in(batch: Any, loaders: object = None) -> int:
    """Return the number of samples in a batch: the first dimension of its tensors; of several loaders, the sum.

    Args:
        batch: what a loader yields, or a mapping or list with what each of several loaders yields.
        loaders: one loader, or several in such a mapping or list.

    Raises:
        ValueError: if there is no tensor, or their first dimensions differ.
    """
    if isinstance(loaders, Mapping):
        return sum(samples_in(batch[key], loader) for key, loader in loaders.items())
    if isinstance(loaders, (list, tuple)):
        return sum(samples_in(part, loader) for part, loader in zip(batch, loaders, strict=True))
    if batch is None:  # of a loader that has come to its end
        return 0
    sizes = set(_first_dimensions(batch))
    if len(sizes) == 1:
        return sizes.pop()
    found = f"their first dimensions differ ({', '.join(map(str, sorted(sizes)))})" if sizes else "there are none"
    raise ParameterValueError(
        "scheduler.unit",
        f'="sample" counts the first dimension of the tensors in a batch, and in this {type(batch).__name__} {found}:'
        f" {COUNT_YOURSELF}",
    )


def _first_dimensions(batch: object) -> Iterator[int]:
    if isinstance(batch, Tensor):
        yield from batch.shape[:1]
    parts: Iterable[object] = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    for part in parts:
        yield from _first_dimensions(part)
