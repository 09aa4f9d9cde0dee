"""What this package uses of a Trainer: its attributes, and Lightning's classes by name.

A name that begins with an underscore is private to Lightning: a new version may change it. A test compares the Trainer
of the installed Lightning with these classes. What only a range test saves and restores is in ``snapshot.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Progress(Protocol):
    """``fit_loop.epoch_progress`` and its like: counts of the present run (``current``) and of all runs (``total``)."""

    @property
    def current(self) -> Any: ...
    @property
    def total(self) -> Any: ...


class DataSource(Protocol):
    """``trainer.fit_loop._data_source``: where a loop takes its data from."""

    instance: Any

    def is_defined(self) -> bool: ...


class Loop(Protocol):
    """``trainer.fit_loop``, its ``epoch_loop`` and the ``val_loop`` in that."""

    restarting: bool
    _loaded_from_state_dict: bool
    _resuming_from_checkpoint: bool


class ValLoop(Loop, Protocol):
    """``trainer.fit_loop.epoch_loop.val_loop``."""

    @property
    def _data_source(self) -> DataSource: ...


class EpochLoop(Loop, Protocol):
    """``trainer.fit_loop.epoch_loop``."""

    max_steps: int
    min_steps: int | None
    _batches_that_stepped: int

    @property
    def batch_progress(self) -> Progress: ...
    @property
    def val_loop(self) -> ValLoop: ...


class FitLoop(Loop, Protocol):
    """``trainer.fit_loop``."""

    max_epochs: int | None
    min_epochs: int | None
    _combined_loader: Any

    @property
    def epoch_loop(self) -> EpochLoop: ...
    @property
    def epoch_progress(self) -> Progress: ...
    @property
    def _data_source(self) -> DataSource: ...
    def run(self) -> None: ...
    def setup_data(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
    def _should_accumulate(self) -> bool: ...


class Strategy(Protocol):
    """``trainer.strategy``."""

    @property
    def lr_scheduler_configs(self) -> list[Any]: ...
    @property
    def model(self) -> Any: ...
    @property
    def root_device(self) -> torch.device: ...


class ParallelStrategy(Strategy, Protocol):
    """``trainer.strategy`` of a fit in several processes."""

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]: ...


class CheckpointConnector(Protocol):
    """``trainer._checkpoint_connector``."""

    @property
    def _loaded_checkpoint(self) -> dict[str, Any]: ...


class LoggerConnector(Protocol):
    """``trainer._logger_connector``."""

    _progress_bar_metrics: dict[str, Any]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...
    def reset_metrics(self) -> None: ...
    def reset_results(self) -> None: ...


class TrainerLike(Protocol):
    """A Trainer of Lightning, from either of its distributions."""

    accumulate_grad_batches: int
    callbacks: list[Any]
    enable_autolog_hparams: bool
    gradient_clip_val: int | float | None
    limit_val_batches: int | float
    should_stop: bool

    @property
    def callback_metrics(self) -> dict[str, Any]: ...
    @property
    def datamodule(self) -> Any: ...
    @property
    def enable_validation(self) -> bool: ...
    @property
    def fast_dev_run(self) -> Any: ...
    @property
    def fit_loop(self) -> FitLoop: ...
    @property
    def global_step(self) -> int: ...
    @property
    def is_global_zero(self) -> bool: ...
    @property
    def lightning_module(self) -> Any: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def log_every_n_steps(self) -> int: ...
    @property
    def loggers(self) -> list[Any]: ...
    @property
    def lr_scheduler_configs(self) -> list[Any]: ...
    @property
    def max_epochs(self) -> int | None: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def num_training_batches(self) -> int | float: ...
    @property
    def optimizers(self) -> list[Any]: ...
    @property
    def precision(self) -> Any: ...
    @property
    def precision_plugin(self) -> Any: ...
    @property
    def sanity_checking(self) -> bool: ...
    @property
    def strategy(self) -> Strategy: ...
    @property
    def train_dataloader(self) -> Any: ...
    @property
    def world_size(self) -> int: ...
    @property
    def _checkpoint_connector(self) -> CheckpointConnector: ...
    @property
    def _logger_connector(self) -> LoggerConnector: ...


def is_a(thing: Any, *class_names: str) -> bool:
    """Return whether ``thing`` is an instance of a class with one of these names.

    Lightning comes in two distributions, each with classes of its own under the same names.
    """
    return any(cls.__name__ in class_names for cls in type(thing).__mro__)


def callbacks_named(trainer: Any, *class_names: str) -> list[Any]:
    """Return the trainer's callbacks that are instances of a class with one of these names; none without a trainer."""
    return [callback for callback in getattr(trainer, "callbacks", ()) if is_a(callback, *class_names)]


def loaded_checkpoint(trainer: TrainerLike) -> dict[str, Any]:
    """Return the checkpoint that the present fit begins from, until all of it is restored; else an empty dictionary."""
    return trainer._checkpoint_connector._loaded_checkpoint or {}
