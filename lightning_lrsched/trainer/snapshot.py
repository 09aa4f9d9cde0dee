"""TrainerSnapshot: a trainer, its module and the random number generators, put back as they were after a trial run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Generator, Tensor

from lightning_lrsched.trainer.generators import generators_in
from lightning_lrsched.trainer.protocol import is_a

SET_ASIDE = (
    # They would write files, stop the run, move the weights or the lr, or start a trial of their own.
    *("Checkpoint", "EarlyStopping", "StochasticWeightAveraging", "WeightAveraging"),
    *("BatchSizeFinder", "LearningRateFinder", "LRSchedulerCallback", "BaseFinetuning", "Timer"),
)


class TrainerSnapshot:
    """Remembers everything that a trial run of ``fit`` changes, and puts it back: once, however the run ends."""

    def __init__(self, trainer: Any) -> None:
        """Remember the trainer's settings and the random states, and set aside callbacks that a trial must not run."""
        self._rng_states = _collect_rng_states()
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits = self._read_limits(trainer)
        self._tensors: list[ModuleTensors] = []
        self._optimizers: list[Any] = []
        self._generators: list[tuple[Generator, Tensor]] = []
        self._restored = False
        trainer.callbacks = [callback for callback in trainer.callbacks if not is_a(callback, *SET_ASIDE)]

    def capture(self, trainer: Any, module: Any) -> None:
        """Remember parameters, buffers, optimizer states and data generators; once the optimizers exist."""
        self._tensors = [ModuleTensors(part) for part in module.modules()]
        self._optimizers = [deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self._generators = [(g, g.get_state()) for g in generators_in(trainer.fit_loop._data_source.instance)]

    def restore_model(self, trainer: Any, module: Any) -> None:
        """Put weights, buffers and optimizer states back."""
        for part in self._tensors:
            part.restore()
        for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=False):
            del optimizer.param_groups[len(state["param_groups"]) :]  # groups that were added during the trial
            optimizer.load_state_dict(state)
        module.zero_grad(set_to_none=True)
        self._tensors, self._optimizers = [], []

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
        trainer._logger_connector.reset_metrics()
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
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
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
        for name in ("limit_val_batches", "accumulate_grad_batches"):
            if name in limits:
                setattr(trainer, name, limits[name])


class ModuleTensors:
    """The parameters and buffers that one module holds itself: which they are, and their values."""

    def __init__(self, module: Any) -> None:
        """Remember them; also those that are None, for a buffer may be filled later."""
        self._module = module
        self._held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
        tensors = [tensor for held in self._held.values() for tensor in held.values() if tensor is not None]
        self._values = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the same tensors back into their places, and their values into them."""
        for kind, held in self._held.items():
            places = getattr(self._module, kind)
            places.clear()
            places.update(held)
        for tensor, value, requires_grad in self._values:
            if tensor.shape == value.shape:
                tensor.copy_(value)
            else:
                tensor.data = value
            tensor.requires_grad_(requires_grad)
