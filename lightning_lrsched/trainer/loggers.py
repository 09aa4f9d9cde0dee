"""CurveLogger: the lr and momentum of each step, sent to a trainer's loggers without making training wait for them."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.durations import STEPS, UNITS
from lightning_lrsched.trainer.attach import Scheduled
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, is_a

MAX_POINTS = 100
MAX_WAIT = 10.0
"""[s] How long a point may wait for others: the curves of slow training stay close behind it."""

LAYOUT_TAG = b"custom_scalars__config__"

MAX_BYTES = 2**20
"""How much of an event file is searched for a layout: it is written at the beginning, if at all."""

LIGHTNING = ("lightning.", "pytorch_lightning.", "lightning_fabric.")


@dataclass(frozen=True)
class Point:
    """One optimizer step to be logged; the values follow from its position, except with torch's own schedulers.

    Args:
        scheduler: the schedule.
        position: its position, with which the step was made.
        at: the step on the trainer's axis.
        lrs: the values of a scheduler of torch's own, which cannot compute them for a past step.
        wall_time: [s] when the step was made.
    """

    scheduler: Any
    position: int
    at: int
    lrs: list[Any] | None
    wall_time: float = field(default_factory=time.time)


class CurveLogger:
    """Logs lr and momentum under the tags of Lightning's LearningRateMonitor, but nothing that a monitor logs itself.

    For TensorBoard, whose writer thread takes turns with the training at every single value, points are collected and
    handed over together, one event for all values of a step: all in order, each with the time when it happened. Its
    page of custom scalars has a chart with all lr, and one with all momentum. To other loggers each point goes at once.
    A logger that raises is left out from then on, with one warning.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._laid_out: list[Any] = []
        self._left_out: list[Any] = []

    def after_batch(self, trainer: TrainerLike, scheduled: Scheduled, *, log: bool) -> None:
        """Log the values of the optimizer step that has just finished, if there was one and it is due."""
        scheduler, before = scheduled.scheduler, scheduled.logged
        finished, every = scheduled.finished, trainer.log_every_n_steps
        if finished == before:
            return
        scheduled.logged = finished
        closed_form = isinstance(scheduler, ClosedFormLR)
        # Under manual optimization a batch may have made several steps, and passed a multiple in its middle.
        at = finished + scheduled.axis
        if log and every and at // every > (before + scheduled.axis) // every:
            # The values with which the step that has just finished, counted from 0, was made.
            lrs = None if closed_form else scheduled.lrs_in_force
            self.add(trainer, Point(scheduler, scheduled.position_before, at - 1, lrs))
        if not closed_form:
            # torch's own schedulers cannot compute the lr of a past step.
            scheduled.lrs_in_force = scheduler.get_last_lr()

    def add(self, trainer: TrainerLike, point: Point) -> None:
        """Log the values with which an optimizer step was made."""
        at_once = [logger for logger in trainer.loggers if not _is_plain_tensorboard(logger)]
        for logger in at_once:
            self._try(logger, lambda logger=logger: logger.log_metrics(_values(trainer, point), step=point.at))
        if len(at_once) < len(trainer.loggers):
            self._points.append(point)
            if len(self._points) >= MAX_POINTS or point.wall_time - self._points[0].wall_time > MAX_WAIT:
                self.flush(trainer)

    def flush(self, trainer: TrainerLike) -> None:
        """Hand over what has been collected."""
        points, self._points = self._points, []
        if not points or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if _is_plain_tensorboard(logger):
                self._try(logger, lambda logger=logger: _write_events(trainer, logger, points))
                if not any(logger is other for other in self._laid_out):
                    self._laid_out.append(logger)
                    self._try(logger, lambda logger=logger: _write_layout(logger, momentum=_has_momentum(trainer)))

    def group_monitored(self, trainer: TrainerLike) -> None:
        """Give the curves of a LearningRateMonitor their charts, where the module has the schedule and nothing else."""
        monitored = callbacks_named(trainer, "LearningRateMonitor")
        if trainer.is_global_zero and monitored and not callbacks_named(trainer, "LRSchedulerCallback"):
            momentum = any(monitor.log_momentum for monitor in monitored)
            for logger in filter(_is_plain_tensorboard, trainer.loggers):
                self._try(logger, lambda logger=logger: _write_layout(logger, momentum=momentum))

    def _try(self, logger: Any, log: Any) -> None:
        if any(logger is other for other in self._left_out):
            return
        try:
            log()
        except Exception as error:  # noqa: BLE001 - training must not fail because a logger does
            self._left_out.append(logger)
            warnings.warn(
                f"{type(logger).__name__} failed to log the lr and momentum curves"
                f" ({type(error).__name__}: {error}); training goes on without them",
                stacklevel=2,
            )


def _is_plain_tensorboard(logger: Any) -> bool:
    """Return whether metrics reach TensorBoard as Lightning sends them: a subclass may filter or rename them."""
    return is_a(logger, "TensorBoardLogger") and type(logger).log_metrics.__module__.startswith(LIGHTNING)


def _values(trainer: TrainerLike, point: Point, tags: dict[int, list[str]] | None = None) -> dict[str, float]:
    """Return tag -> value for a point; ``tags``: what :func:`curve_tags` returns, computed once for many points."""
    monitors = callbacks_named(trainer, "LearningRateMonitor")
    wants_momentum = not any(monitor.log_momentum for monitor in monitors)
    names = (curve_tags(trainer) if tags is None else tags)[id(point.scheduler.optimizer)]
    momenta = None
    if isinstance(point.scheduler, ClosedFormLR):
        lrs = point.scheduler.lr_at(point.position)
        momenta = point.scheduler.momentum_at(point.position) if wants_momentum else None
    else:
        lrs = [float(lr) for lr in point.lrs or []]
    values: dict[str, float] = {}
    # Not strict: the lrs of torch's own schedulers were stored before a callback added a param group.
    if not monitors:
        values.update(zip(names, lrs, strict=False))
    if momenta is not None:
        values.update(zip([f"{name}-momentum" for name in names], momenta, strict=False))
    unit = getattr(point.scheduler, "unit", STEPS)
    if unit != STEPS:
        values[f"{names[0].partition('/')[0]}-{unit}s"] = float(point.position)
    return values


def _write_events(trainer: TrainerLike, logger: Any, points: list[Point]) -> None:
    # Imported only here: other loggers' users need not have it loaded.
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # noqa: PLC0415

    prefix = _prefix(logger)
    writer = logger.experiment._get_file_writer()
    tags = curve_tags(trainer)
    for point in points:
        of_step = _values(trainer, point, tags)
        if of_step:
            scalars = [Summary.Value(tag=prefix + tag, simple_value=value) for tag, value in of_step.items()]
            writer.add_summary(Summary(value=scalars), point.at, point.wall_time)


def _write_layout(logger: Any, *, momentum: bool) -> None:
    """Group the curves on the page of custom scalars, by patterns that also match groups and optimizers added later."""
    board = logger.experiment
    board.flush()
    # TensorBoard shows the last layout of a run: the user's own, or an earlier fit's, must stay.
    if any(_has_layout(path) for path in Path(logger.log_dir).glob("events.out.tfevents.*")):
        return
    lr = f"{re.escape(_prefix(logger))}lr-.+"
    others = "".join(f"(?<!-{name})" for name in ("momentum", "weight_decay", *(f"{unit}s" for unit in UNITS)))
    charts = {"lr": ["Multiline", [rf"{lr}{others}$"]]}
    if momentum:
        charts["momentum"] = ["Multiline", [rf"{lr}-momentum$"]]
    board.add_custom_scalars({"schedule": charts})


def _has_layout(path: Path) -> bool:
    with path.open("rb") as file:
        return LAYOUT_TAG in file.read(MAX_BYTES)


def _has_momentum(trainer: TrainerLike) -> bool:
    """Return whether momentum is logged, by us or by a monitor."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return any(monitor.log_momentum for monitor in callbacks_named(trainer, "LearningRateMonitor")) or any(
        isinstance(scheduler, ClosedFormLR) and scheduler.momentum_at(0) is not None for scheduler in schedulers
    )


def _prefix(logger: Any) -> str:
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""


def curve_tags(trainer: TrainerLike) -> dict[int, list[str]]:
    """Return the tags under which LearningRateMonitor logs each scheduled optimizer's groups, by ``id(optimizer)``."""
    tags: dict[int, list[str]] = {}
    seen: Counter[type] = Counter()
    for config in trainer.lr_scheduler_configs:
        optimizer = config.scheduler.optimizer
        if config.name is None:
            seen[type(optimizer)] += 1
        name = config.name or f"lr-{type(optimizer).__name__}"
        repeated = seen[type(optimizer)]
        prefix = f"{name}-{repeated - 1}" if repeated > 1 else name
        tags[id(optimizer)] = _group_tags(prefix, optimizer.param_groups)
    return tags


def _group_tags(prefix: str, groups: list[dict[str, Any]]) -> list[str]:
    if len(groups) == 1:
        return [f"{prefix}/{groups[0]['name']}" if groups[0].get("name") else prefix]
    return [f"{prefix}/{group.get('name', f'pg{number}')}" for number, group in enumerate(groups, start=1)]
