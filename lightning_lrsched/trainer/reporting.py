"""What a fit says about its schedules: values in this run, hyperparameters for the loggers, lengths that do not fit."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import lr_of, trainer_arguments
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.schedules.errors import ParameterError
from lightning_lrsched.schedules.length import STEPS, Horizon
from lightning_lrsched.trainer.attach import Scheduled
from lightning_lrsched.trainer.horizon import MANUAL_TOLERANCE, Start, ended_early, horizon_of, steps_made
from lightning_lrsched.trainer.protocol import (
    Checkpoint,
    Guest,
    TrainerLike,
    autologs,
    callbacks_named,
    is_a,
    is_automatic,
    logs_own,
    pause_autolog,
)

Hyperparameters = dict[str, Any]
"""What a logger stores of a run: name -> value."""

MAX_DIGITS = 8
"""A longer number was computed: six digits of it are shown."""

MANY = 4
"""Of a list with so many values, one for each param group, the table shows two: its lines are for 80 columns."""

TOLERANCE = 0.05
"""How much shorter or longer than the run a schedule may be, as a fraction of the run."""

LOW = 0.01
"""An lr below this fraction of the highest hardly trains."""


def log(trainer: TrainerLike, text: str, level: int = logging.INFO) -> None:
    """Log ``text`` with Lightning's logger, whose handler prints it; once, not on every rank."""
    if getattr(trainer, "is_global_zero", False):
        # The user's Trainer may be a subclass.
        homes = [cls.__module__ for cls in type(trainer).__mro__ if cls.__name__ == "Trainer"]
        logging.getLogger((homes or [__name__])[-1]).log(level, "%s", text)


def add_note(trainer: TrainerLike, error: Exception, text: str) -> None:
    """Add ``text`` to what Python shows of an error; before Python 3.11, which cannot, log it."""
    if hasattr(error, "add_note"):
        error.add_note(text)
    else:
        log(trainer, text, logging.WARNING)


class RunReport(Guest):
    """Reports the schedules of a fit to the log and the loggers, once, whoever attached them.

    Hyperparameters are one record with the module's own: TensorBoard's tab HPARAMS shows the first record of a run, and
    Lightning logs the module's after ``on_fit_start``.
    """

    def __init__(self) -> None:
        self._hyperparameters: Hyperparameters = {}
        self._written = False
        self._start = Start()
        self.schedules: dict[int, Scheduled] = {}
        self._waits = False
        self._resume_autolog: Callable[[], None] | None = None

    @classmethod
    def join(cls, trainer: TrainerLike | None) -> RunReport | None:
        """Return the report of the fit that ``trainer`` is about to do, which is added to its callbacks if need be.

        None without a Trainer, or in a range test.
        """
        if trainer is None or not hasattr(trainer, "loggers") or callbacks_named(trainer, "LRRangeTestCallback"):
            return None
        reports = [callback for callback in trainer.callbacks if isinstance(callback, RunReport)]
        if not reports:
            reports = [cls()]
            trainer.callbacks.append(reports[0])
        return reports[0]

    def add(self, trainer: TrainerLike, scheduled: Scheduled, *, source: str | None = None) -> None:
        """Report a schedule that was built; its values are logged at once.

        Args:
            trainer: whose fit it is.
            scheduled: the schedule.
            source: what has found the values that wait for a range test; None: what the user has written says it.
        """
        config, resolved, index = scheduled.config, scheduled.resolved, scheduled.index
        assert resolved is not None
        self.schedules[index] = scheduled
        keys = config.given_paths
        as_written, values = config.values(keys), resolved.values(keys)
        if source is not None:  # nobody has written the word
            as_written.update(dict.fromkeys(config.needs_range_test, source))
        unit = "" if config.unit == STEPS else f" [{config.unit}s]"
        name = name_of(scheduled.schedule.optimizer, index if len(trainer.optimizers) > 1 else None)
        table = "\n" + resolution_table(config.type + unit, as_written, values)
        log(trainer, f"Schedule of {name}:{table if values else f' {config.type}, with its defaults'}")
        section = resolved.to_dict()
        values = {**section.pop("params"), **section}
        self.add_hyperparameters(trainer, f"lr_scheduler_{index}" if index else "lr_scheduler", values)

    def add_hyperparameters(self, trainer: TrainerLike, name: str, values: Hyperparameters) -> None:
        """Add ``values`` to the record that the loggers store when the fit begins."""
        self._hyperparameters[name] = values
        if self._written:
            self._write(trainer)

    def wait_for_range_test(self) -> None:
        """Write the record only when training starts: a range test is still to find some of its numbers."""
        self._waits = True

    def on_fit_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._start = Start.of(trainer)
        if not self._waits:
            self._write(trainer)
        elif autologs(trainer):
            self._resume_autolog = pause_autolog(trainer)

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: LightningModule, checkpoint: Checkpoint) -> None:
        self._start = Start.of(trainer)  # strategies that shard the optimizer load it after on_fit_start

    def on_train_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        # Before 2.6, what is paused are the hyperparameters alone.
        paused = self._resume_autolog is not None and hasattr(trainer, "enable_autolog_hparams")
        self.leave(trainer)
        if not self._written:
            self._write(trainer)
        if paused:  # what Lightning does beside
            for logger in trainer.loggers:
                logger.log_graph(pl_module)
                logger.save()
        if not trainer.fast_dev_run:
            for each in self.schedules.values():
                self._report_length(trainer, each)

    def _report_length(self, trainer: TrainerLike, each: Scheduled) -> None:
        name, found = each.config.type, each.schedule.schedule.length
        ends_early = [type(callback).__name__ for callback in callbacks_named(trainer, "EarlyStopping", "Timer")]
        end = None if found is None else end_of(each)
        if ends_early and end is not None and _falls(each.schedule, end):
            who = "max_time" if ends_early == ["Timer"] else ends_early[0]
            log(
                trainer,
                f"{name}: the schedule ends at {each.config.unit} {end}. If {who} ends the run earlier, the lr is"
                " still above its last value; the log then shows both values",
            )
        # Under manual optimization only the loop knows how often an optimizer steps.
        if is_automatic(trainer):
            run = each.run
            if not each.config.needs_run or each.counter is not None:  # else its length was read already
                tokens = None if each.counter is None else each.counter.tokens
                position = each.schedule.last_epoch
                run = horizon_of(trainer, each.config.unit, start=self._start, position=position, tokens=tokens)
            line = length_mismatch(each.config, each.schedule, run)
            if line:
                log(trainer, line, logging.WARNING)

    def leave(self, trainer: TrainerLike) -> None:
        super().leave(trainer)
        if self._resume_autolog is not None:
            self._resume_autolog()
            self._resume_autolog = None

    def _write(self, trainer: TrainerLike) -> None:
        self._written = True
        if self._hyperparameters:
            store_hyperparameters(trainer, self._hyperparameters)


class EndReport(Guest):
    """Reports at the end of a fit which schedules have not come to their end, among those that no callback follows."""

    def __init__(self) -> None:
        self.schedules: list[Scheduled] = []
        self._before: int | None = None

    @classmethod
    def join(cls, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Have the fit that ``trainer`` is about to do report a schedule when it ends."""
        reports = [callback for callback in trainer.callbacks if isinstance(callback, EndReport)]
        if not reports:
            reports = [cls()]
            trainer.callbacks.append(reports[0])
        reports[0].schedules.append(scheduled)

    def on_train_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._before = steps_made(trainer)
        listed = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.schedules = [each for each in self.schedules if each.scheduler in listed]  # others were replaced
        for each in self.schedules:
            each.begin()

    def on_train_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._report(trainer, early=ended_early(trainer))

    def on_exception(self, trainer: TrainerLike, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            self._report(trainer, early=True)
        super().on_exception(trainer, pl_module, exception)

    def _report(self, trainer: TrainerLike, *, early: bool) -> None:
        if self._before is not None:
            report_end(trainer, self.schedules, steps_made(trainer) - self._before, early=early)
            self._before = None


def report_end(trainer: TrainerLike, schedules: Iterable[Scheduled], steps: int, *, early: bool) -> None:
    """Log which schedules have not come to their end, after a fit that Lightning counts ``steps`` in."""
    for scheduled in schedules:
        line = None if trainer.fast_dev_run else line_at_the_end(scheduled, steps, early=early)
        if line:
            log(trainer, line, logging.WARNING)


# The log --------------------------------------------------------------------------------------------------------------


def log_unused(
    trainer: TrainerLike, owner: str, section: object, optimizer: Optimizer, index: int | None = None
) -> None:
    """Log that ``owner`` does not use an ``optimizer`` section, whatever it holds; with both lrs if they differ."""
    lr = lr_of(section)
    own = dict.fromkeys(f"{float(group.get('initial_lr', group['lr'])):g}" for group in optimizer.param_groups)
    differs = lr is not None and list(own) != [f"{lr:g}"]
    lrs = f" (its lr is {' and '.join(own)}, the section's {lr:g})" if differs else ""
    log(
        trainer,
        f"{owner}: the configuration's optimizer section is not used; the module's own {name_of(optimizer, index)} is"
        f"{lrs}. To make the optimizer from the section, return lightning_lrsched.configure_optimizers(self, config)"
        " from the module's configure_optimizers, in place of this callback",
    )


def log_trainer_arguments(trainer: TrainerLike, owner: str, config: Mapping[str, object]) -> None:
    """Log which arguments of the Trainer the rest of a DeepSpeed configuration asks for, where it has others."""
    try:
        asked_for = trainer_arguments(config, world_size=trainer.world_size)
    except ParameterError as error:
        log(trainer, f"{owner}: the rest of the configuration cannot be used: {error}", logging.WARNING)
        return
    missing = {key: value for key, value in asked_for.items() if getattr(trainer, key) != value}
    if missing:
        listed = ", ".join(f"{key}={value!r}" for key, value in missing.items())
        log(
            trainer,
            f"{owner}: the configuration also asks for Trainer({listed}), which this Trainer does not have;"
            " lightning_lrsched.trainer_arguments(config) returns these arguments",
        )


def resolution_table(name: str, written: Mapping[str, object], resolved: Mapping[str, object]) -> str:
    """Return a plain-text table: each value as written, where that differs, and in this run.

    >>> print(resolution_table("WarmupLR", {"warmup_num_steps": "auto"}, {"warmup_num_steps": 30}))
    WarmupLR         | as written | in this run
    warmup_num_steps | auto       | 30
    >>> print(resolution_table("WarmupLR", {"warmup_num_steps": 30}, {"warmup_num_steps": 30}))
    WarmupLR         | in this run
    warmup_num_steps | 30
    """
    differ = [key for key, value in written.items() if value != resolved[key]]
    rows = [(name, "as written", "in this run")]
    rows += [(key, _shown(value) if key in differ else "", _shown(resolved[key])) for key, value in written.items()]
    keys, given, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    middle = [f" | {value:<{given}}" if differ else "" for _, value, _ in rows]
    return "\n".join([f"{key:<{keys}}{cell} | {value}" for (key, _, value), cell in zip(rows, middle, strict=True)])


def _shown(value: object) -> str:
    """Return ``value`` as text; a number that was computed has six digits, and of a long list the ends are shown."""
    if isinstance(value, (list, tuple)):
        items = list(map(_shown, value))
        return f"[{', '.join(items if len(items) < MANY else [items[0], '...', items[-1]])}]"
    return f"{value:.6g}" if isinstance(value, float) and len(str(value)) > MAX_DIGITS else str(value)


def name_of(optimizer: Optimizer, index: int | None = None) -> str:
    """Return how an optimizer is called in the log; with its index where a module has several."""
    name = type(optimizer).__name__
    return name if index is None else f"optimizer {index} ({name})"


def of_optimizer(trainer: TrainerLike, index: int) -> str:
    """Return whose test or schedule it is, as words behind its name; empty where a module has one optimizer."""
    return f" of {name_of(trainer.optimizers[index], index)}" if len(trainer.optimizers) > 1 else ""


# Hyperparameters ------------------------------------------------------------------------------------------------------


def store_hyperparameters(trainer: TrainerLike, ours: Mapping[str, object], *, with_own: bool | None = None) -> None:
    """Send ``ours`` to every logger, in one record with the hyperparameters of the module.

    A name that the module uses itself gets the prefix ``lightning_lrsched_``.

    Args:
        trainer: whose loggers.
        ours: name -> value.
        with_own: whether Lightning logs the module's own; None: as the Trainer has it.
    """
    with_own = autologs(trainer) if with_own is None else with_own
    record = _hyperparameters_of_module(trainer) if with_own else {}
    if not record and not ours:
        return
    for name, values in ours.items():
        record[f"lightning_lrsched_{name}" if name in record else name] = values
    for logger in trainer.loggers:
        _log_hyperparameters(logger, record)


def _log_hyperparameters(logger: Logger, record: Hyperparameters) -> None:
    try:
        logger.log_hyperparams(record)
        _renew_file(logger)
    except Exception as error:  # noqa: BLE001 - MLflow refuses values that have changed since the run was interrupted
        rank_zero_warn(
            f"{type(logger).__name__} did not take the hyperparameters of the schedule"
            f" ({type(error).__name__}: {str(error)[:200]}); training goes on without them"
        )


def _renew_file(logger: Logger) -> None:
    """Let TensorBoardLogger write its file of hyperparameters again, where a range test had it written still empty."""
    name = getattr(logger, "NAME_HPARAMS_FILE", None)
    if name and is_a(logger, "TensorBoardLogger"):
        file = Path(str(logger.log_dir)) / name
        if file.is_file() and file.read_text(encoding="utf-8").strip() == "{}":
            file.unlink(missing_ok=True)  # several processes may get here
            logger.save()


def _hyperparameters_of_module(trainer: TrainerLike) -> Hyperparameters:
    """Return the hyperparameters that Lightning itself logs a moment later."""
    record: Hyperparameters = {}
    for owner in (trainer.lightning_module, trainer.datamodule):
        if logs_own(owner):
            record.update(getattr(owner, "hparams_initial"))  # noqa: B009 - of both
    record.pop("_class_path", None)  # LightningCLI's own
    return record


# Lengths --------------------------------------------------------------------------------------------------------------


def length_mismatch(config: SchedulerConfig, schedule: ScheduledLR, run: Horizon) -> str | None:
    """Return a line for the log where a schedule ends long before the run, or the run before the schedule.

    None if the length of the run is not known, if a fraction of the run was asked for, or if the schedule goes on after
    its end (a decay after 1Cycle; WarmupLR, which holds its lr).

    Args:
        config: the configuration as it was written.
        schedule: the schedule that was built from it.
        run: how long the run is.
    """
    found, total, unit = schedule.schedule.length, run.total, config.unit
    if found is None or total is None:
        return None
    keys, length = found
    if length > total * (1 + TOLERANCE):
        lr, last = max(schedule.lr_at(total)), max(schedule.lr_at(length))
        return (
            f"{config.type}: the run ends at {unit} {total}, the schedule only at {unit} {length}"
            f" ({' + '.join(keys)}): the lr will then be {lr:.3g}, not {last:.3g}. {_remedy(config, keys, length)}"
        )
    if set(keys) & set(config.needs_run):
        return None
    end = length if schedule.schedule.ends_low else _low_from(schedule, length)
    if end is not None and end < total * (1 - TOLERANCE):
        low, last = max(schedule.lr_at(end)), max(schedule.lr_at(total))
        rest = f"the last {total - end} {unit}s will have an lr of {last:.3g}"
        if last > low * (1 + TOLERANCE):  # one of torch's that turns
            rest = f"the lr is {low:.3g} there, and goes on to {last:.3g} at the end of the run"
        return (
            f"{config.type}: the schedule ends at {unit} {end} ({' + '.join(keys)}), the run only at {unit} {total}:"
            f" {rest}. {_remedy(config, keys, length)}"
        )
    return None


def _remedy(config: SchedulerConfig, keys: list[str], length: int) -> str:
    fields = {path: field for path, field, _ in config.schedule.leaves()}
    auto = all(fields[key].auto for key in keys)
    lengths = ", ".join(f'"{key}": "auto"' for key in keys) if auto else "fractions of the run (0.1)"
    return f"Write {lengths} for lengths that fit the run, or train for {length} {config.unit}s"


def _low_from(schedule: ScheduledLR, length: int) -> int | None:
    """Return where a decay that follows a schedule has left nearly nothing of the lr; None: it goes on to train."""
    peak = max(max(schedule.lr_at(round(length * part / 20))) for part in range(21))
    preview = schedule.schedule.preview_steps
    steps = (length, (length + preview) // 2, preview)
    return min((step for step in steps if max(schedule.lr_at(step)) < LOW * peak), default=None)


def end_of(scheduled: Scheduled) -> int:
    """Return where a schedule that has a length ends: with the run, if it goes on after it and was made for the run."""
    schedule, total = scheduled.schedule.schedule, scheduled.run.total
    assert schedule.length is not None
    keys, length = schedule.length
    goes_on = not schedule.ends_low and bool(set(keys) & set(scheduled.config.needs_run))
    return max(length, total) if goes_on and total else length


def _falls(schedule: ScheduledLR, end: int) -> bool:
    """Return whether the lr at the end is below the highest before it."""
    return max(schedule.lr_at(end)) < max(max(schedule.lr_at(round(end * part / 20))) for part in range(20))


def line_at_the_end(scheduled: Scheduled, expected: int, *, early: bool) -> str | None:
    """Return a line for the log if a schedule has not come to its end, or ended at another step than planned.

    Args:
        scheduled: the schedule, after the fit.
        expected: steps of the fit as Lightning counts them; under manual optimization, batches.
        early: whether the run has ended before its own limits, by its time, a callback or the user.
    """
    config, schedule, found = scheduled.config, scheduled.schedule, scheduled.schedule.schedule.length
    if found is None:
        return None
    (keys, length), position, unit = found, schedule.last_epoch, config.unit
    named, made, end = " + ".join(keys), position - scheduled.began_at, end_of(scheduled)
    # A stream may hold fewer batches than the limits of the Trainer allow.
    dried_up = position < (scheduled.run.total or 0) and abs(made - expected) <= MANUAL_TOLERANCE * expected
    if (early or (dried_up and scheduled.counter is None)) and position < (1 - TOLERANCE) * end:
        now, then = max(schedule.lr_at(max(0, position - 1))), max(schedule.lr_at(end))
        return (
            f"{config.type}: the run has ended at {unit} {position}, before the schedule, which ends at {unit} {end}"
            f" ({named}). The last lr was {now:.3g}; at the end of the schedule it is {then:.3g}"
        )
    # Whatever the steps are, samples and tokens count what each holds.
    near = [end for end in (length, scheduled.run.total) if end and abs(position - end) <= MANUAL_TOLERANCE * end]
    if scheduled.counter is not None or abs(made - expected) <= MANUAL_TOLERANCE * expected or near:
        return None
    if position > length and not set(keys) & set(config.needs_run):
        return None
    at = f"is at step {position} of {length}" if position < length else f"ended at step {length} of {position}"
    return (
        f"{config.type}: the optimizer made {made} steps in this fit, where one per batch would be {expected}; the"
        f' schedule {at} ({named}). Lengths count the steps of this optimizer. "auto", fractions and epochs assume one'
        " step per batch, unless a range test or a resumed run has shown another rate. Write the lengths as numbers of"
        " optimizer steps"
    )
