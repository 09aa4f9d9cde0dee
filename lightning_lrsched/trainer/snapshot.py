"""TrainerSnapshot: restores a trainer, its module and the random number generators after a trial run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfig

from lightning_lrsched.range_test.generators import generator_states, global_states
from lightning_lrsched.range_test.snapshot import ModelSnapshot
from lightning_lrsched.trainer.deepspeed_engine import EngineState, engine_of
from lightning_lrsched.trainer.protocol import TrainerLike, is_a

DISABLED_CALLBACKS = (
    # They would write files, stop the run, change the weights or the lr, or start a trial of their own.
    *("Checkpoint", "EarlyStopping", "StochasticWeightAveraging", "WeightAveraging"),
    *("BatchSizeFinder", "LearningRateFinder", "LRSchedulerCallback", "BaseFinetuning", "Timer"),
    # They would show the trial as if it were the training.
    *("ProgressBar", "LearningRateMonitor"),
)


KEPT_INSIDE_FIT = ("GradientAccumulationScheduler", "LRRangeTestCallback")
"""The callbacks that take part in a trial at the beginning of a fit; all others see only the training."""


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


class TrainerSnapshot:
    """Remembers everything that a trial run changes, and restores it once, however the run ends.

    Args:
        trainer: the trainer that is about to make the trial.
        at_start: the random states at the start of the fit, where the trial is made inside the fit that it is for;
            None: the trial is a fit of its own.
    """

    def __init__(self, trainer: TrainerLike, at_start: RandomStates | None = None) -> None:
        """Remember the trainer's settings and the random states; disable what a trial must not run."""
        self._inside_fit = at_start is not None
        self._random_states = RandomStates() if at_start is None else at_start
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits = self._read_limits(trainer)
        self._model: ModelSnapshot | None = None
        self._engine: EngineState | None = None
        self._schedulers: list[tuple[LRSchedulerConfig, dict[str, Any]]] = []
        self._restored = False
        trainer.callbacks = [callback for callback in trainer.callbacks if self._takes_part(callback)]
        # Loggers keep the first hyperparameters of a run: at the end of the trial they get them with its findings.
        self.logs_hyperparameters = trainer.enable_autolog_hparams
        trainer.enable_autolog_hparams = False
        # What the module logs would stand among the values of the training.
        trainer._logger_connector.log_metrics = _log_nothing  # type: ignore[method-assign]

    def _takes_part(self, callback: Any) -> bool:
        return is_a(callback, *KEPT_INSIDE_FIT) if self._inside_fit else not is_a(callback, *DISABLED_CALLBACKS)

    def had_progress_bar(self) -> bool:
        """Return whether the trainer shows a progress bar."""
        return any(is_a(callback, "ProgressBar") and callback.is_enabled for callback in self._callbacks)

    def capture(self, trainer: TrainerLike, module: Any) -> None:
        """Remember parameters, buffers, metrics, optimizer states and data generators; once the optimizers exist.

        Raises:
            ValueError: if the module has lazy parameters, which have no value yet that could be restored.
        """
        engine = engine_of(trainer)
        self._model = None  # two copies of it need not fit
        self._engine = None if engine is None else EngineState(engine, module)
        # DeepSpeed's optimizers have shards; the precision plugin has the state of a gradient scaler.
        optimizers = trainer.optimizers if engine is None else []
        self._model = ModelSnapshot(module, [*optimizers, trainer.precision_plugin])
        # In a second call the trial's own schedule may be in their place.
        configs = [config for config, _ in self._schedulers] or list(trainer.lr_scheduler_configs)
        self._schedulers = [(config, deepcopy(config.scheduler.state_dict())) for config in configs]
        if not self._inside_fit:
            self._random_states.add_data(trainer)

    def restore_model(self, trainer: TrainerLike, *, keep: bool = False) -> None:
        """Restore weights, buffers, metrics, optimizer states and schedulers; with ``keep``, another trial follows."""
        if self._engine is not None:
            self._engine.release_gathered()
        if self._model is not None:
            self._model.restore(keep=keep)
        if self._engine is not None:
            self._engine.restore(keep=keep)
            self._engine = self._engine if keep else None
        if self._schedulers:
            self._restore_schedulers(trainer)

    def _restore_schedulers(self, trainer: TrainerLike) -> None:
        trainer.strategy.lr_scheduler_configs[:] = [config for config, _ in self._schedulers]
        for config, state in self._schedulers:
            config.scheduler.load_state_dict(state)

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
        trainer._logger_connector.reset_results()
        self._random_states.restore()

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


def _log_nothing(*_: Any, **__: Any) -> None:
    """Replace the logger connector's log_metrics."""
