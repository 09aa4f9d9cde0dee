"""What this package uses of a Trainer: its attributes, Lightning's classes by name, and what differs between versions.

A name that begins with an underscore is private to Lightning: a new version may change it. A test compares the Trainer
of the installed Lightning with these classes. What only a range test saves and restores is in ``fit_state.py``.
"""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from lightning.pytorch.callbacks import Callback


class Progress(Protocol):
    """``fit_loop.epoch_progress`` and its like: counts of the present run (``current``) and of all runs (``total``)."""

    current: Any
    total: Any


class DataSource(Protocol):
    """``trainer.fit_loop._data_source``: where a loop takes its data from."""

    instance: Any

    def is_defined(self) -> bool: ...


class ValLoop(Protocol):
    """``trainer.fit_loop.epoch_loop.val_loop``."""

    restarting: bool
    _data_source: DataSource


class EpochLoop(Protocol):
    """``trainer.fit_loop.epoch_loop``."""

    restarting: bool
    max_steps: int
    min_steps: int | None
    batch_progress: Progress
    val_loop: ValLoop
    _batches_that_stepped: int


class FitLoop(Protocol):
    """``trainer.fit_loop``."""

    restarting: bool
    max_epochs: int | None
    min_epochs: int | None
    epoch_loop: EpochLoop
    epoch_progress: Progress
    _combined_loader: Any
    _data_source: DataSource

    def run(self) -> None: ...
    def setup_data(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
    def _should_accumulate(self) -> bool: ...


class Strategy(Protocol):
    """``trainer.strategy``."""

    lr_scheduler_configs: list[Any]
    model: Any
    root_device: torch.device

    def training_step(self, *args: Any) -> Any: ...


class ParallelStrategy(Strategy, Protocol):
    """``trainer.strategy`` of a fit in several processes."""

    distributed_sampler_kwargs: dict[str, Any]


class CheckpointConnector(Protocol):
    """``trainer._checkpoint_connector``."""

    _loaded_checkpoint: dict[str, Any]


class LoggerConnector(Protocol):
    """``trainer._logger_connector``."""

    _progress_bar_metrics: dict[str, Any]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...
    def reset_metrics(self) -> None: ...
    def reset_results(self) -> None: ...


class TrainerLike(Protocol):
    """A Trainer of Lightning, from either of its distributions."""

    accumulate_grad_batches: int
    callback_metrics: dict[str, Any]
    callbacks: list[Any]
    datamodule: Any
    enable_validation: bool
    fast_dev_run: Any
    fit_loop: FitLoop
    global_step: int
    gradient_clip_val: int | float | None
    is_global_zero: bool
    lightning_module: Any
    limit_train_batches: int | float
    limit_val_batches: int | float
    local_rank: int
    log_every_n_steps: int
    loggers: list[Any]
    lr_scheduler_configs: list[Any]
    max_epochs: int | None
    max_steps: int
    num_training_batches: int | float
    optimizers: list[Any]
    precision: Any
    precision_plugin: Any
    sanity_checking: bool
    should_stop: bool
    strategy: Strategy
    train_dataloader: Any
    world_size: int
    _checkpoint_connector: CheckpointConnector
    _logger_connector: LoggerConnector


# Lightning's classes --------------------------------------------------------------------------------------------------


def is_a(thing: Any, *class_names: str) -> bool:
    """Return whether ``thing`` is an instance of a class with one of these names.

    Lightning comes in two distributions, each with classes of its own under the same names.
    """
    return any(cls.__name__ in class_names for cls in type(thing).__mro__)


def callbacks_named(trainer: Any, *class_names: str) -> list[Any]:
    """Return the trainer's callbacks that are instances of a class with one of these names; none without a trainer."""
    return [callback for callback in getattr(trainer, "callbacks", ()) if is_a(callback, *class_names)]


class Guest(Callback):
    """A callback that is added behind those of the user, and leaves when training starts: each costs time in a step."""

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        self.leave(trainer)

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        self.leave(trainer)

    def teardown(self, trainer: TrainerLike, pl_module: Any, stage: str) -> None:
        self.leave(trainer)  # if there was nothing to train

    def leave(self, trainer: TrainerLike) -> None:
        """Leave the trainer's callbacks."""
        # A new list: Lightning iterates over the present one.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]


# What differs between versions ----------------------------------------------------------------------------------------


def loaded_checkpoint(trainer: TrainerLike) -> dict[str, Any]:
    """Return the checkpoint that the present fit begins from, until all of it is restored; else an empty dictionary."""
    return trainer._checkpoint_connector._loaded_checkpoint or {}


def is_automatic(trainer: TrainerLike) -> bool:
    """Return whether Lightning steps the optimizers itself."""
    return bool(getattr(getattr(trainer, "lightning_module", None), "automatic_optimization", True))


def autologs(trainer: TrainerLike) -> bool:
    """Return whether Lightning logs the hyperparameters of the module; before 2.6 it always does."""
    return bool(getattr(trainer, "enable_autolog_hparams", True))


class _Paused:
    """Stands where a module has whether its hyperparameters are logged, while they are not."""

    def __bool__(self) -> bool:
        return False


def logs_own(owner: Any) -> bool:
    """Return whether a module or its data have hyperparameters that Lightning logs, now or once it is not paused."""
    logs = getattr(owner, "_log_hyperparams", False)
    return bool(logs) or isinstance(logs, _Paused)


def pause_autolog(trainer: TrainerLike) -> Callable[[], None]:
    """Keep Lightning from logging the hyperparameters of the module until the returned function is called.

    A logger keeps the first record of a run, and a range test may still have to find what belongs into it.
    """
    name = "enable_autolog_hparams"
    owners: list[Any] = [trainer]
    if not hasattr(trainer, name):  # the switches of module and data do the same
        name, owners = "_log_hyperparams", [trainer.lightning_module, trainer.datamodule]
    before = [(owner, getattr(owner, name)) for owner in owners if owner is not None]

    def resume() -> None:
        for owner, value in before:
            setattr(owner, name, value)

    for owner, value in before:
        setattr(owner, name, _Paused() if value else value)
    return resume


def repeats_last_batch(trainer: TrainerLike) -> bool:
    """Return whether a run that was saved right after a batch, in its hooks, goes on with the same batch again."""
    return not hasattr(trainer.fit_loop, "_resuming_from_checkpoint")  # before 2.6


def mark_as_fresh(loop: Any) -> None:
    """Let a loop that has loaded a state begin as one that has not: loading marks it as resumed from a checkpoint."""
    for name in ("restarting", "_loaded_from_state_dict", "_resuming_from_checkpoint"):  # from 2.6 on, the last two
        if hasattr(loop, name):
            setattr(loop, name, False)
