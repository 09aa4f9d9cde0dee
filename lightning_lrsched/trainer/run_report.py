"""RunReport: once per fit, hyperparameters for the loggers, and a line for a schedule that does not fit the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.log_resolved import log
from lightning_lrsched.trainer.loggers import CurveLogger
from lightning_lrsched.trainer.progress import Tokens
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, is_a
from lightning_lrsched.trainer.run_length import Start
from lightning_lrsched.trainer.run_samples import run_length_in

TOLERANCE = 0.05
"""How much shorter or longer than the run a schedule may be, as a fraction of the run."""


MANUAL_TOLERANCE = 0.1
"""How many more or fewer steps than expected an optimizer may make, as a fraction of these."""


class RunReport(Callback):
    """Collects what to report about the schedules of one fit, whoever attached them.

    It is added after all other callbacks of the Trainer, and removes itself when training starts: a callback costs
    time in every step.

    Hyperparameters are one record with the module's own: TensorBoard's tab HPARAMS shows the first record of a run, and
    Lightning logs the module's after ``on_fit_start``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hyperparameters: dict[str, Any] = {}
        self._written = False
        self._start = Start()
        self._schedules: dict[int, tuple[SchedulerConfig, LRScheduler, Tokens | None]] = {}
        self._waits = self._autolog = False

    @staticmethod
    def of(trainer: Any) -> RunReport | None:
        """Return the report of the fit that ``trainer`` is about to do; None without a Trainer, or in a range test."""
        if not hasattr(trainer, "loggers") or callbacks_named(trainer, "LRRangeTestCallback"):
            return None
        reports = [callback for callback in trainer.callbacks if isinstance(callback, RunReport)]
        if not reports:
            reports = [RunReport()]
            trainer.callbacks.append(reports[0])
        return reports[0]

    def add_schedule(
        self,
        trainer: TrainerLike,
        written: SchedulerConfig,
        resolved: SchedulerConfig,
        schedule: LRScheduler,
        index: int | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """Report the schedule of optimizer ``index``; None: of the next one, in the order of the calls."""
        index = len(self._schedules) if index is None else index
        self._schedules[index] = written, schedule, tokens
        section = resolved.to_dict()
        name = f"lr_scheduler_{index}" if index else "lr_scheduler"
        self.add_hyperparameters(trainer, name, {**section.pop("params"), **section})

    def add_hyperparameters(self, trainer: TrainerLike, name: str, values: dict[str, Any]) -> None:
        """Add ``values`` to the record that the loggers store when the fit begins."""
        self._hyperparameters[name] = values
        if self._written:
            self._write(trainer)

    def wait_for_range_test(self) -> None:
        """Write the record only when training starts: a range test is still to find some of its numbers."""
        self._waits = True

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = Start.of(trainer)
        self._autolog = trainer.enable_autolog_hparams
        if self._waits:
            trainer.enable_autolog_hparams = False  # loggers keep the first record
        else:
            self._write(trainer)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._start = Start.of(trainer)  # strategies that shard the optimizer load it after on_fit_start

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        waited = self._waits
        self._leave(trainer)
        CurveLogger().group_monitored(trainer)
        if waited:
            self._write(trainer)
            if self._autolog:  # what Lightning does beside
                for logger in trainer.loggers:
                    logger.log_graph(pl_module)
                    logger.save()
        # Under manual optimization only the loop knows how often an optimizer steps.
        if self._schedules and not trainer.fast_dev_run and pl_module.automatic_optimization:
            for config, schedule, tokens in self._schedules.values():
                run = run_length_in(config.unit, trainer, schedule.last_epoch, tokens, self._start)
                line = length_mismatch(config, schedule, run)
                if line:
                    log(trainer, line, logging.WARNING)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._leave(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._leave(trainer)  # if there was nothing to train

    def _leave(self, trainer: TrainerLike) -> None:
        if self._waits:
            self._waits, trainer.enable_autolog_hparams = False, self._autolog
        # A new list: Lightning iterates over the present one.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]

    def _write(self, trainer: TrainerLike) -> None:
        self._written = True
        if self._hyperparameters:
            store_hyperparameters(trainer, self._hyperparameters)


def store_hyperparameters(trainer: TrainerLike, ours: Mapping[str, Any], *, with_own: bool | None = None) -> None:
    """Send ``ours`` to every logger, in one record with the hyperparameters of the module.

    A name that the module uses itself gets the prefix ``lightning_lrsched_``.

    Args:
        trainer: whose loggers.
        ours: name -> value.
        with_own: whether Lightning logs the module's own; None: as the Trainer has it.
    """
    with_own = trainer.enable_autolog_hparams if with_own is None else with_own
    record = _hyperparameters_of_module(trainer) if with_own else {}
    if not record and not ours:
        return
    for name, values in ours.items():
        record[f"lightning_lrsched_{name}" if name in record else name] = values
    for logger in trainer.loggers:
        _log_hyperparameters(logger, record)


def _log_hyperparameters(logger: Any, record: dict[str, Any]) -> None:
    try:
        logger.log_hyperparams(record)
        _renew_file(logger)
    except Exception as error:  # noqa: BLE001 - MLflow refuses values that have changed since the run was interrupted
        rank_zero_warn(
            f"{type(logger).__name__} did not take the hyperparameters of the schedule"
            f" ({type(error).__name__}: {str(error)[:200]}); training goes on without them"
        )


def _renew_file(logger: Any) -> None:
    """Let TensorBoardLogger write its file of hyperparameters again, where a range test had it written still empty."""
    name = getattr(logger, "NAME_HPARAMS_FILE", None)
    if name and is_a(logger, "TensorBoardLogger"):
        file = Path(logger.log_dir) / name
        if file.is_file() and file.read_text(encoding="utf-8").strip() == "{}":
            file.unlink(missing_ok=True)  # several processes may get here
            logger.save()


def _hyperparameters_of_module(trainer: TrainerLike) -> dict[str, Any]:
    """Return the hyperparameters that Lightning itself logs a moment later."""
    record: dict[str, Any] = {}
    for owner in (trainer.lightning_module, trainer.datamodule):
        if getattr(owner, "_log_hyperparams", False):
            record.update(owner.hparams_initial)
    record.pop("_class_path", None)  # LightningCLI's own
    return record


def length_mismatch(config: SchedulerConfig, schedule: Any, run: RunLength) -> str | None:
    """Return a line for the log where a schedule ends long before the run, or the run before the schedule.

    None if the length of the run is not known, if a fraction of the run was asked for, or if the schedule goes on after
    its end (a decay after 1Cycle; WarmupLR, which holds its lr).

    Args:
        config: the configuration as it was written.
        schedule: the schedule that was built from it.
        run: how long the run is.
    """
    found = length_of(schedule)
    if found is None or run.total_steps is None:
        return None
    (keys, length), total, unit = found, run.total_steps, config.unit
    parameters, _ = config.by_path()
    named, auto = " + ".join(keys), all(parameters[key].rule.auto for key in keys)
    remedy = ", ".join(f'"{key}": "auto"' for key in keys) if auto else "fractions of the run (0.1)"
    if length > total * (1 + TOLERANCE):
        lr, last = schedule.lr_at(total)[0], schedule.lr_at(length)[0]
        return (
            f"{config.type}: the run ends at {unit} {total}, the schedule only at {unit} {length} ({named}): the lr"
            f" will then be {lr:.3g}, not {last:.3g}. Write {remedy} for lengths that fit the run, or train for"
            f" {length} {unit}s"
        )
    if (
        length < total * (1 - TOLERANCE)
        and schedule.ends_low(schedule.hyperparameters)
        and not set(keys) & set(config.needs_run)
    ):
        return (
            f"{config.type}: the schedule ends at {unit} {length} ({named}), the run only at {unit} {total}: the"
            f" last {total - length} {unit}s will have an lr of {schedule.lr_at(total)[0]:.3g}. Write {remedy} for"
            f" lengths that fit the run, or train for {length} {unit}s"
        )
    return None


def length_of(schedule: Any) -> tuple[list[str], int] | None:
    """Return the keys that give a schedule its length, and the step at which it ends; None if it has no end."""
    return schedule.length(schedule.hyperparameters) if isinstance(schedule, ClosedFormLR) else None


def steps_mismatch(config: SchedulerConfig, schedule: Any, made: int, expected: int) -> str | None:
    """Return a line for the log where an optimizer made far more or fewer steps than its schedule was resolved for.

    Accumulation by hand, or an optimizer that steps on every nth batch, cannot be known in advance.

    Args:
        config: the configuration as it was written.
        schedule: the schedule that was built from it, after the fit.
        made: its optimizer's steps in the fit.
        expected: steps of the fit as Lightning counts them; under manual optimization, batches.
    """
    found = length_of(schedule)
    if found is None or abs(made - expected) <= MANUAL_TOLERANCE * expected:
        return None
    (keys, length), position = found, schedule.last_epoch
    from_the_run = [key for key in keys if key in config.needs_run]
    if not from_the_run and position >= (1 - MANUAL_TOLERANCE) * length:
        return None
    end = (
        f"is at step {position} of {length} ({' + '.join(keys)})"
        if position < length
        else (f"ended at step {length} ({' + '.join(keys)}) of {position}")
    )
    return (
        f"{config.type}: the optimizer made {made} steps in this fit, where one per batch would be {expected}; the"
        f' schedule {end}. Lengths count this optimizer\'s own steps, and "auto", fractions and epochs assume one step'
        " per batch: write numbers of optimizer steps"
    )
