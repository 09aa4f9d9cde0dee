"""TrainerSnapshot: restores a trainer, its module and the random number generators after a trial run."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Tensor
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lightning_lrsched.trainer.deepspeed_engine import EngineState, engine_of
from lightning_lrsched.trainer.generators import generator_states
from lightning_lrsched.trainer.protocol import TrainerLike, is_a

DISABLED_CALLBACKS = (
    # They would write files, stop the run, change the weights or the lr, or start a trial of their own.
    *("Checkpoint", "EarlyStopping", "StochasticWeightAveraging", "WeightAveraging"),
    *("BatchSizeFinder", "LearningRateFinder", "LRSchedulerCallback", "BaseFinetuning", "Timer"),
    # They would show the trial as if it were the training.
    *("ProgressBar", "LearningRateMonitor"),
)


class TrainerSnapshot:
    """Remembers everything that a trial run of ``fit`` changes, and restores it once, however the run ends."""

    def __init__(self, trainer: TrainerLike) -> None:
        """Remember the trainer's settings and the random states; disable what a trial must not run."""
        self._rng_states = _collect_rng_states()
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits = self._read_limits(trainer)
        self._modules: list[ModuleTensors | MetricState] = []
        self._optimizers: list[Any] = []
        self._engine: EngineState | None = None
        self._reset_generators: list[Callable[[], object]] = []
        self._restored = False
        trainer.callbacks = [callback for callback in trainer.callbacks if not is_a(callback, *DISABLED_CALLBACKS)]
        # Loggers keep the first hyperparameters of a run: at the end of the trial they get them with its findings.
        self.logs_hyperparameters = trainer.enable_autolog_hparams
        trainer.enable_autolog_hparams = False
        # What the module logs would stand among the values of the training.
        trainer._logger_connector.log_metrics = _log_nothing  # type: ignore[method-assign]

    def had_progress_bar(self) -> bool:
        """Return whether the trainer shows a progress bar."""
        return any(is_a(callback, "ProgressBar") and callback.is_enabled for callback in self._callbacks)

    def capture(self, trainer: TrainerLike, module: Any) -> None:
        """Remember parameters, buffers, metrics, optimizer states and data generators; once the optimizers exist.

        Raises:
            ValueError: if the module has lazy parameters, which have no value yet that could be restored.
        """
        refuse_lazy_parameters(module)
        engine = engine_of(trainer)
        self._engine = None if engine is None else EngineState(engine, module)
        parts = list(module.modules())
        self._modules = [*map(ModuleTensors, parts), *(MetricState(part) for part in parts if isinstance(part, Metric))]
        if self._engine is None:
            self._optimizers = [copy_of_state(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self._reset_generators = generator_states(trainer.fit_loop._data_source.instance)

    def restore_model(self, trainer: TrainerLike, module: Any) -> None:
        """Restore weights, buffers, metrics and optimizer states."""
        if self._engine is not None:
            self._engine.release_gathered()
        for part in self._modules:
            part.restore()
        if self._engine is not None:
            self._engine.restore()
        for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=False):
            del optimizer.param_groups[len(state["param_groups"]) :]  # groups that were added during the trial
            optimizer.load_state_dict(state)
        module.zero_grad(set_to_none=True)
        self._modules, self._optimizers, self._engine = [], [], None

    def restore_trainer(self, trainer: TrainerLike) -> None:
        """Restore callbacks, limits, progress and random states."""
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
        trainer.enable_autolog_hparams = self.logs_hyperparameters
        vars(trainer._logger_connector).pop("log_metrics", None)  # the class has it
        trainer._logger_connector.reset_metrics()
        for reset in self._reset_generators:
            reset()
        _set_rng_states(self._rng_states)

    @staticmethod
    def _read_limits(trainer: TrainerLike) -> dict[str, Any]:
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
    def set_limits(trainer: TrainerLike, **limits: Any) -> None:
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
    """The parameters and buffers that one module holds itself: which they are, and their values in host memory."""

    def __init__(self, module: Any) -> None:
        """Remember them; also those that are None, for a buffer may be filled later."""
        self._module = module
        self._held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
        tensors = [tensor for held in self._held.values() for tensor in held.values() if tensor is not None]
        self._values = [(tensor, host_copy(tensor), tensor.requires_grad) for tensor in tensors]

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
                tensor.data = value.to(tensor.device)
            tensor.requires_grad_(requires_grad)


class MetricState:
    """The states of one metric of torchmetrics, which are neither parameters nor buffers."""

    def __init__(self, metric: Metric) -> None:
        """Remember them."""
        self._metric = metric
        names = [*metric._defaults, "_update_count", "_computed"]
        self._state = {name: deepcopy(getattr(metric, name)) for name in names}

    def restore(self) -> None:
        """Put them back."""
        for name, value in self._state.items():
            setattr(self._metric, name, value)


def copy_of_state(state: Any) -> Any:
    """Return a copy of an optimizer's state, its tensors in host memory.

    Loading moves what belongs to a parameter back to its device. The param groups are copied as they are, because a
    tensor lr would not be moved back.
    """
    if isinstance(state, Tensor):
        return host_copy(state)
    if isinstance(state, dict):
        return {key: deepcopy(of) if key == "param_groups" else copy_of_state(of) for key, of in state.items()}
    return deepcopy(state)


def host_copy(tensor: Tensor) -> Tensor:
    """Return a copy in host memory: a second model may not fit on the device. A sharded tensor stays where it is."""
    return tensor.detach().clone() if hasattr(tensor, "to_local") else tensor.detach().to("cpu", copy=True)


def refuse_lazy_parameters(module: Any) -> None:
    """Raise ValueError where a lazy module (LazyLinear, for example) has not seen any data yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(module).__name__} is a lazy parameter without a shape or a value, so the range test"
                " could not put it back: before fit, call the module once with a batch of data (module(batch))"
            )


def _log_nothing(*_: Any, **__: Any) -> None:
    """Replace the logger connector's log_metrics."""
