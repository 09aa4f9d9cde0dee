"""CurveLogger: the lr and momentum of each step, sent to a trainer's loggers without making training wait for them."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_lrsched.optim.hyperparameters import LR
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.schedules.length import STEPS, UNITS
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
    """One optimizer step to be logged; the values follow from its position.

    Args:
        scheduler: the schedule.
        position: its position, with which the step was made.
        at: the step on the trainer's axis.
        wall_time: [s] when the step was made.
    """

    scheduler: ScheduledLR
    position: int
    at: int
    wall_time: float = field(default_factory=time.time)

    def values(self, tags: Mapping[int, list[str]]) -> dict[str, float]:
        """Return tag -> value; ``tags`` as :func:`curve_tags` returns them."""
        schedule, names = self.scheduler, tags[id(self.scheduler.optimizer)]
        values: dict[str, float] = {}
        for hyperparameter, of_groups in schedule.values_at(self.position).items():
            end = "" if hyperparameter == LR else f"-{hyperparameter}"
            values.update(zip([f"{name}{end}" for name in names], of_groups, strict=True))
        if schedule.unit != STEPS:
            values[f"{names[0].partition('/')[0]}-{schedule.unit}s"] = float(self.position)
        return values


class CurveLogger:
    """Logs lr and momentum under the tags of Lightning's LearningRateMonitor; nothing where the trainer has a monitor.

    For TensorBoard, whose writer thread takes turns with the training at every single value, points are collected and
    handed over together, one event for all values of a step: all in order, each with the time when it happened. Its
    page of custom scalars has a chart with all lr, and one with all momentum. To other loggers each point goes at once.
    A logger that raises is left out from then on, with one warning.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._laid_out: list[Any] = []
        self._left_out: list[Any] = []

    def after_batch(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Log the values of the optimizer step that has just finished, if there was one and it is due."""
        before, finished, every = scheduled.logged, scheduled.finished, trainer.log_every_n_steps
        if finished == before:
            return
        scheduled.logged = finished
        # Under manual optimization a batch may have made several steps, and passed a multiple in its middle.
        at = finished + scheduled.axis
        if every and at // every > (before + scheduled.axis) // every:
            # The values with which the step that has just finished, counted from 0, was made.
            self._add(trainer, Point(scheduled.scheduler, scheduled.position_before, at - 1))

    def _add(self, trainer: TrainerLike, point: Point) -> None:
        if callbacks_named(trainer, "LearningRateMonitor"):
            return
        at_once = [logger for logger in trainer.loggers if not _is_plain_tensorboard(logger)]
        for logger in at_once:
            self._try(
                logger, lambda logger=logger: logger.log_metrics(point.values(curve_tags(trainer)), step=point.at)
            )
        if len(at_once) < len(trainer.loggers):
            self._points.append(point)
            if len(self._points) >= MAX_POINTS or point.wall_time - self._points[0].wall_time > MAX_WAIT:
                self.flush(trainer)

    def flush(self, trainer: TrainerLike) -> None:
        """Hand over what has been collected."""
        points, self._points = self._points, []
        if not points or not trainer.is_global_zero:
            return
        for logger in filter(_is_plain_tensorboard, trainer.loggers):
            self._try(logger, lambda logger=logger: _write_events(trainer, logger, points))
            if not any(logger is other for other in self._laid_out):
                self._laid_out.append(logger)
                self._try(logger, lambda logger=logger: _write_layout(logger, momentum=_has_momentum(trainer)))

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


def _write_events(trainer: TrainerLike, logger: Any, points: list[Point]) -> None:
    # Imported only here: other loggers' users need not have it loaded.
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # noqa: PLC0415

    prefix = _prefix(logger)
    writer = logger.experiment._get_file_writer()
    tags = curve_tags(trainer)
    for point in points:
        scalars = [Summary.Value(tag=prefix + tag, simple_value=value) for tag, value in point.values(tags).items()]
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
    """Return whether momentum is logged."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return any(isinstance(each, ScheduledLR) and each.momentum_at(0) is not None for each in schedulers)


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
