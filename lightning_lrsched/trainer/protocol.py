"""What this package uses of a Trainer: its attributes, Lightning's classes by name, and what differs between versions.

A name that begins with an underscore is private to Lightning: a new version may change it. A test compares the Trainer
of the installed Lightning with these classes. What only a range test saves and restores is in ``fit_state.py``.
"""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from lightning_lrsched.optim.snapshot import is_one_of

Checkpoint = dict[str, Any]
"""What Lightning saves and loads: every owner has entries of its own."""


class Counts(Protocol):
    """``fit_loop.epoch_progress.current``: how many epochs have come to each of their stations."""

    processed: int


class Progress(Protocol):
    """``fit_loop.epoch_progress``: counts of the present run."""

    current: Counts


class DataSource(Protocol):
    """``trainer.fit_loop._data_source``: where a loop takes its data from."""

    instance: object

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
    def state_dict(self) -> Checkpoint: ...
    def load_state_dict(self, state_dict: Checkpoint) -> None: ...
    def _should_accumulate(self) -> bool: ...


class Strategy(Protocol):
    """``trainer.strategy``."""

    lr_scheduler_configs: list[LRSchedulerConfig]
    model: torch.nn.Module
    root_device: torch.device

    def training_step(self, *args: object) -> object: ...


class ParallelStrategy(Strategy, Protocol):
    """``trainer.strategy`` of a fit in several processes."""

    distributed_sampler_kwargs: dict[str, int]


class CheckpointConnector(Protocol):
    """``trainer._checkpoint_connector``."""

    _loaded_checkpoint: Checkpoint


class LoggerConnector(Protocol):
    """``trainer._logger_connector``."""

    _progress_bar_metrics: dict[str, float]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...
    def reset_metrics(self) -> None: ...
    def reset_results(self) -> None: ...


class TrainerLike(Protocol):
    """A Trainer of Lightning, from either of its distributions."""

    accumulate_grad_batches: int
    callback_metrics: dict[str, torch.Tensor]
    callbacks: list[Callback]
    datamodule: object
    enable_validation: bool
    fast_dev_run: int | bool
    fit_loop: FitLoop
    global_step: int
    gradient_clip_val: int | float | None
    is_global_zero: bool
    lightning_module: LightningModule
    limit_train_batches: int | float
    limit_val_batches: int | float
    local_rank: int
    log_every_n_steps: int
    loggers: list[Logger]
    lr_scheduler_configs: list[LRSchedulerConfig]
    max_epochs: int | None
    max_steps: int
    num_training_batches: int | float
    optimizers: list[Optimizer]
    precision_plugin: object
    sanity_checking: bool
    should_stop: bool
    strategy: Strategy
    train_dataloader: object
    world_size: int
    _checkpoint_connector: CheckpointConnector
    _logger_connector: LoggerConnector


# Lightning's classes --------------------------------------------------------------------------------------------------


is_a = is_one_of
"""By name: Lightning comes in two distributions, each with classes of its own under the same names."""


def callbacks_named(trainer: object, *class_names: str) -> list[Any]:
    """Return the trainer's callbacks that are instances of a class with one of these names; none without a trainer."""
    return [callback for callback in getattr(trainer, "callbacks", ()) if is_a(callback, *class_names)]


def loss_in(returned: object) -> torch.Tensor | None:
    """Return the loss in what a ``training_step`` has returned; None: there is none."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    return loss if isinstance(loss, torch.Tensor) else None


class Guest(Callback):
    """A callback that is added behind those of the user, and leaves when training starts: each costs time in a step."""

    def on_train_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self.leave(trainer)

    def on_exception(self, trainer: TrainerLike, pl_module: LightningModule, exception: BaseException) -> None:
        self.leave(trainer)

    def teardown(self, trainer: TrainerLike, pl_module: LightningModule, stage: str) -> None:
        self.leave(trainer)  # if there was nothing to train

    def leave(self, trainer: TrainerLike) -> None:
        """Leave the trainer's callbacks."""
        # A new list: Lightning iterates over the present one.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]


# What differs between versions ----------------------------------------------------------------------------------------


def loaded_checkpoint(trainer: TrainerLike) -> Checkpoint:
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


def logs_own(owner: object) -> bool:
    """Return whether a module or its data have hyperparameters that Lightning logs, now or once it is not paused."""
    logs = getattr(owner, "_log_hyperparams", False)
    return bool(logs) or isinstance(logs, _Paused)


def pause_autolog(trainer: TrainerLike) -> Callable[[], None]:
    """Keep Lightning from logging the hyperparameters of the module until the returned function is called.

    A logger keeps the first record of a run, and a range test may still have to find what belongs into it.
    """
    name = "enable_autolog_hparams"
    owners: list[object] = [trainer]
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


def mark_as_fresh(loop: object) -> None:
    """Let a loop that has loaded a state begin as one that has not: loading marks it as resumed from a checkpoint."""
    for name in ("restarting", "_loaded_from_state_dict", "_resuming_from_checkpoint"):  # from 2.6 on, the last two
        if hasattr(loop, name):
            setattr(loop, name, False)
