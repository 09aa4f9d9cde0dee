"""TrainerSnapshot: a trainer, its module and the random number generators, put back as they were after a trial run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from lightning_lrsched.callbacks.trainer_facts import is_a

SET_ASIDE = (
    # They would write files, stop the run, move the weights or the lr, or start a trial of their own.
    *("Checkpoint", "EarlyStopping", "StochasticWeightAveraging", "WeightAveraging"),
    *("BatchSizeFinder", "LearningRateFinder", "LRSchedulerCallback"),
)


class TrainerSnapshot:
    """Remembers everything that a trial run of ``fit`` changes, and puts it back: once, however the run ends."""

    def __init__(self, trainer: Any) -> None:
        """Remember the trainer's settings and the random states, and set aside callbacks that a trial must not run."""
        self._rng_states = _collect_rng_states()
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits = self._read_limits(trainer)
        self._tensors: dict[str, Tensor] = {}
        self._optimizers: list[Any] = []
        self._generators: list[tuple[Generator, Tensor]] = []
        self._restored = False
        trainer.callbacks = [callback for callback in trainer.callbacks if not is_a(callback, *SET_ASIDE)]

    def capture(self, trainer: Any, module: Any) -> None:
        """Remember parameters, buffers, optimizer states and data generators; once the optimizers exist."""
        self._tensors = {name: tensor.detach().clone() for name, tensor in _tensors_of(module)}
        self._optimizers = [deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self._generators = [(g, g.get_state()) for g in _generators_in(trainer.fit_loop._data_source.instance)]

    def restore_model(self, trainer: Any, module: Any) -> None:
        """Put weights, buffers and optimizer states back."""
        with torch.no_grad():
            for name, tensor in _tensors_of(module):
                if name in self._tensors:
                    tensor.copy_(self._tensors[name])
        for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=False):
            optimizer.load_state_dict(state)
        module.zero_grad(set_to_none=True)
        self._tensors, self._optimizers = {}, []

    def restore_trainer(self, trainer: Any) -> None:
        """Put callbacks, limits, progress and random states back."""
        if self._restored:
            return
        self._restored = True
        trainer.callbacks = self._callbacks
        loop = trainer.fit_loop
        loop.load_state_dict(self._loops)
        for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
            # Loading a state marks the loops as resumed from a checkpoint, which they are not.
            part.restarting = part._loaded_from_state_dict = part._resuming_from_checkpoint = False
        loop._combined_loader = None
        loop.epoch_loop._batches_that_stepped = self._limits["batches_that_stepped"]
        self.set_limits(trainer, **self._limits)
        trainer.should_stop = False
        for generator, state in self._generators:
            generator.set_state(state)
        _set_rng_states(self._rng_states)

    @staticmethod
    def _read_limits(trainer: Any) -> dict[str, Any]:
        loop = trainer.fit_loop
        return {
            "max_epochs": loop.max_epochs,
            "min_epochs": loop.min_epochs,
            "max_steps": loop.epoch_loop.max_steps,
            "min_steps": loop.epoch_loop.min_steps,
            "limit_val_batches": trainer.limit_val_batches,
            "batches_that_stepped": loop.epoch_loop._batches_that_stepped,
        }

    @staticmethod
    def set_limits(trainer: Any, **limits: Any) -> None:
        """Set some of the limits that end a fit."""
        loop = trainer.fit_loop
        for name in ("max_epochs", "min_epochs"):
            if name in limits:
                setattr(loop, name, limits[name])
        for name in ("max_steps", "min_steps"):
            if name in limits:
                setattr(loop.epoch_loop, name, limits[name])
        if "limit_val_batches" in limits:
            trainer.limit_val_batches = limits["limit_val_batches"]


def _tensors_of(module: Any) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _generators_in(source: Any) -> list[Generator]:
    """Return the random generators of a dataloader, of several in a list or dict, or of a datamodule's attributes."""
    if isinstance(source, Generator):
        return [source]
    if isinstance(source, DataLoader):
        parts = [source.generator, source.sampler, source.batch_sampler]
        return [generator for part in parts for generator in _generators_in(part)]
    if isinstance(source, dict):
        return [generator for part in source.values() for generator in _generators_in(part)]
    if isinstance(source, (list, tuple)):
        return [generator for part in source for generator in _generators_in(part)]
    attributes = vars(source).values() if hasattr(source, "__dict__") else ()
    return [a for a in attributes if isinstance(a, Generator)] + [
        generator for a in attributes if isinstance(a, DataLoader) for generator in _generators_in(a)
    ]
