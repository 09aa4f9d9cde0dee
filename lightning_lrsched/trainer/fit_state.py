"""FitState: what a trial run changes in a fit, and how it goes back: Trainer, module, data, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfig

from lightning_lrsched.optim.snapshot import ModelSnapshot, generator_states, global_states
from lightning_lrsched.trainer.deepspeed import EngineState, engine_of
from lightning_lrsched.trainer.protocol import TrainerLike, autologs, is_a, mark_as_fresh, pause_autolog

DISABLED_CALLBACKS = (
    # They would write files, stop the run, change the weights or the lr, or start a trial of their own.
    *("Checkpoint", "EarlyStopping", "StochasticWeightAveraging", "WeightAveraging"),
    *("BatchSizeFinder", "LearningRateFinder", "LRSchedulerCallback", "BaseFinetuning", "Timer"),
    # They would show the trial as if it were the training.
    *("ProgressBar", "LearningRateMonitor"),
)


KEPT_INSIDE_FIT = ("GradientAccumulationScheduler", "LRRangeTestCallback")
"""The callbacks that take part in a trial at the beginning of a fit; all others see only the training."""

LOOP_LIMITS = ("max_epochs", "min_epochs")
EPOCH_LOOP_LIMITS = ("max_steps", "min_steps")
TRAINER_LIMITS = ("limit_val_batches", "accumulate_grad_batches")


class RandomStates:
    """The states of the random number generators of Python, NumPy and torch, and of those behind a trainer's data."""

    def __init__(self) -> None:
        self._resets = global_states()

    def add_data(self, trainer: TrainerLike) -> None:
        """Remember the generators of the trainer's data, too; once the module and its data are set up."""
        self._resets = [*generator_states(trainer.fit_loop._data_source.instance), *self._resets]

    def restore(self) -> None:
        """Restore all of them."""
        for reset in self._resets:
            reset()


class FitState:
    """Remembers everything that a trial run changes, and restores it once, however the run ends.

    :meth:`set_aside` begins the trial, :meth:`put_back` ends it; between them lies the training of the trial, from
    :meth:`capture` to :meth:`restore`.

    Args:
        trainer: the trainer that is about to make the trial.
        at_start: the random states at the start of the fit, where the trial is made inside the fit that it is for;
            None: the trial is a fit of its own.
    """

    def __init__(self, trainer: TrainerLike, at_start: RandomStates | None = None) -> None:
        self._trainer, self._inside_fit = trainer, at_start is not None
        self._random_states = RandomStates() if at_start is None else at_start
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits = _limits_of(trainer)
        self._batches_that_stepped = trainer.fit_loop.epoch_loop._batches_that_stepped
        self._before: ModelSnapshot | None = None
        self._marked: ModelSnapshot | None = None
        self._engine: EngineState | None = None
        self._schedulers: list[tuple[LRSchedulerConfig, dict[str, Any]]] = []
        self.logs_hyperparameters = autologs(trainer)
        self._resume_autolog: Callable[[], None] | None = None

    # The Trainer ------------------------------------------------------------------------------------------------------

    def set_aside(self, test: Callback) -> None:
        """Take what a trial must not run out of the Trainer."""
        trainer = self._trainer
        trainer.callbacks = [callback for callback in trainer.callbacks if self._takes_part(callback)]
        if self._inside_fit:
            trainer.callbacks.append(test)
        # Loggers keep the first hyperparameters of a run: at the end of the trial they get them with its findings.
        self._resume_autolog = pause_autolog(trainer)
        # What the module logs would stand among the values of the training.
        trainer._logger_connector.log_metrics = _log_nothing  # type: ignore[method-assign]

    def _takes_part(self, callback: Any) -> bool:
        return is_a(callback, *KEPT_INSIDE_FIT) if self._inside_fit else not is_a(callback, *DISABLED_CALLBACKS)

    def had_progress_bar(self) -> bool:
        """Return whether the trainer shows a progress bar."""
        return any(is_a(callback, "ProgressBar") and callback.is_enabled for callback in self._callbacks)

    def put_back(self) -> None:
        """Restore callbacks, limits, progress and random states."""
        trainer, loop = self._trainer, self._trainer.fit_loop
        trainer.callbacks = self._callbacks
        loop.load_state_dict(self._loops)
        for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
            mark_as_fresh(part)
        loop._combined_loader = None
        loop.epoch_loop._batches_that_stepped = self._batches_that_stepped
        set_limits(trainer, **self._limits)
        trainer.should_stop = False
        if self._resume_autolog is not None:
            self._resume_autolog()
        vars(trainer._logger_connector).pop("log_metrics", None)  # the class has it
        trainer._logger_connector.reset_metrics()
        trainer._logger_connector.reset_results()
        self._random_states.restore()

    # The module, its optimizers and schedulers ------------------------------------------------------------------------

    def capture(self, module: Any) -> None:
        """Remember parameters, buffers, metrics, optimizer states and data generators; once the optimizers exist.

        Raises:
            ValueError: if the module has lazy parameters, which have no value yet that could be restored.
        """
        trainer, engine = self._trainer, engine_of(self._trainer)
        self._before = self._marked = None  # two copies of it need not fit
        self._engine = None if engine is None else EngineState(engine, module)
        self._module = module
        # DeepSpeed's optimizers have shards; the precision plugin has the state of a gradient scaler.
        self._saved = [*([] if engine else trainer.optimizers), trainer.precision_plugin]
        self._before = self._marked = ModelSnapshot(module, self._saved)
        # In a second call the trial's own schedule may be in their place.
        configs = [config for config, _ in self._schedulers] or list(trainer.lr_scheduler_configs)
        self._schedulers = [(config, deepcopy(config.scheduler.state_dict())) for config in configs]
        if not self._inside_fit:
            self._random_states.add_data(trainer)

    def mark(self) -> None:
        """Remember where each sweep begins: the hooks before the first batch have prepared the module."""
        self._marked = ModelSnapshot(self._module, self._saved, earlier=self._before)

    def rewind(self) -> None:
        """Go back there; the data go on."""
        self._restore(self._marked, keep=True)

    def restore(self) -> None:
        """Restore weights, buffers, metrics, optimizer states and schedulers."""
        before, self._before, self._marked = self._before, None, None
        self._restore(before, keep=False)

    def _restore(self, snapshot: ModelSnapshot | None, *, keep: bool) -> None:
        if self._engine is not None:
            self._engine.release_gathered()
        if snapshot is not None:
            snapshot.restore(keep=keep)
        if self._engine is not None:
            self._engine.restore(keep=keep)
            self._engine = self._engine if keep else None
        if self._schedulers:
            self._trainer.strategy.lr_scheduler_configs[:] = [config for config, _ in self._schedulers]
            for config, state in self._schedulers:
                config.scheduler.load_state_dict(state)


def _limits_of(trainer: TrainerLike) -> dict[str, Any]:
    return {name: getattr(owner, name) for owner, names in _owners(trainer) for name in names}


def set_limits(trainer: TrainerLike, **limits: Any) -> None:
    """Set some of the limits that end a fit."""
    for owner, names in _owners(trainer):
        for name in names:
            if name in limits:
                setattr(owner, name, limits[name])


def _owners(trainer: TrainerLike) -> list[tuple[Any, tuple[str, ...]]]:
    loop = trainer.fit_loop
    return [(loop, LOOP_LIMITS), (loop.epoch_loop, EPOCH_LOOP_LIMITS), (trainer, TRAINER_LIMITS)]


def _log_nothing(*_: Any, **__: Any) -> None:
    """Replace the logger connector's log_metrics."""
