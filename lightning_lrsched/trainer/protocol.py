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


class EpochLoop(Protocol):
    """``trainer.fit_loop.epoch_loop``."""

    @property
    def batch_progress(self) -> Progress: ...
    @property
    def _batches_that_stepped(self) -> int: ...


class FitLoop(Protocol):
    """``trainer.fit_loop``."""

    _combined_loader: Any

    @property
    def epoch_loop(self) -> EpochLoop: ...
    @property
    def epoch_progress(self) -> Progress: ...
    def setup_data(self) -> None: ...


class Strategy(Protocol):
    """``trainer.strategy``."""

    @property
    def lr_scheduler_configs(self) -> list[Any]: ...
    @property
    def root_device(self) -> torch.device: ...


class CheckpointConnector(Protocol):
    """``trainer._checkpoint_connector``."""

    @property
    def _loaded_checkpoint(self) -> dict[str, Any]: ...


class TrainerLike(Protocol):
    """A Trainer of Lightning, from either of its distributions."""

    callbacks: list[Any]

    @property
    def accumulate_grad_batches(self) -> int: ...
    @property
    def datamodule(self) -> Any: ...
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
    def strategy(self) -> Strategy: ...
    @property
    def train_dataloader(self) -> Any: ...
    @property
    def _checkpoint_connector(self) -> CheckpointConnector: ...


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
