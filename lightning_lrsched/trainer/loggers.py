"""What the loggers and the terminal show: the curves of lr and momentum, a range test, and a probe."""

from __future__ import annotations

import io
import math
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lightning_lrsched.optim.hyperparameters import LR, Group
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.probe import ProbeResult
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.report import EXAMPLE_STEPS, as_png, findings
from lightning_lrsched.range_test.sweep import Row
from lightning_lrsched.schedules.length import STEPS, UNITS
from lightning_lrsched.trainer.attach import Scheduled
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, is_a

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger
    from matplotlib.figure import Figure
    from PIL.Image import Image

L = TypeVar("L", bound=Logger)

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


class Guard:
    """Sends something to loggers; one that raises is left out from then on, with one warning.

    Args:
        failure: what the warning says of it.
        goes_on: what goes on without it.
    """

    def __init__(self, failure: str, goes_on: str) -> None:
        self._failure, self._goes_on = failure, goes_on
        self._left_out: list[Logger] = []

    def send(self, logger: L, send: Callable[[L], object]) -> None:
        """Call ``send`` with the logger."""
        if any(logger is other for other in self._left_out):
            return
        try:
            send(logger)
        except Exception as error:  # noqa: BLE001 - neither training nor a test may fail because a logger does
            self._left_out.append(logger)
            warnings.warn(
                f"{type(logger).__name__} {self._failure} ({type(error).__name__}: {error}); {self._goes_on}",
                stacklevel=2,
            )


class CurveLogger:
    """Logs lr and momentum under the tags of Lightning's LearningRateMonitor; nothing where the trainer has a monitor.

    For TensorBoard, whose writer thread takes turns with the training at every single value, points are collected and
    handed over together, one event for all values of a step: all in order, each with the time when it happened. Its
    page of custom scalars has a chart with all lr, and one for each other hyperparameter. To other loggers each point
    goes at once. A logger that raises is left out from then on, with one warning.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._laid_out: list[Logger] = []
        self._guard = Guard("failed to log the lr and momentum curves", "training goes on without them")

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
            self._add(trainer, Point(scheduled.schedule, scheduled.position_before, at - 1))

    def _add(self, trainer: TrainerLike, point: Point) -> None:
        if callbacks_named(trainer, "LearningRateMonitor"):
            return
        at_once = [logger for logger in trainer.loggers if not _is_plain_tensorboard(logger)]
        for logger in at_once:
            self._guard.send(logger, lambda to: to.log_metrics(point.values(curve_tags(trainer)), step=point.at))
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
            self._guard.send(logger, lambda to: _write_events(trainer, to, points))
            if not any(logger is other for other in self._laid_out):
                self._laid_out.append(logger)
                self._guard.send(logger, lambda to: _write_layout(to, _names_logged(trainer)))


def _is_plain_tensorboard(logger: Logger) -> TypeGuard[TensorBoardLogger]:
    """Return whether metrics reach TensorBoard as Lightning sends them: a subclass may filter or rename them."""
    return is_a(logger, "TensorBoardLogger") and type(logger).log_metrics.__module__.startswith(LIGHTNING)


def _write_events(trainer: TrainerLike, logger: TensorBoardLogger, points: list[Point]) -> None:
    # Imported only here: other loggers' users need not have it loaded.
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # noqa: PLC0415

    prefix = _prefix(logger)
    writer = logger.experiment._get_file_writer()
    tags = curve_tags(trainer)
    for point in points:
        scalars = [Summary.Value(tag=prefix + tag, simple_value=value) for tag, value in point.values(tags).items()]
        writer.add_summary(Summary(value=scalars), point.at, point.wall_time)


def _write_layout(logger: TensorBoardLogger, names: list[str]) -> None:
    """Group the curves on the page of custom scalars, by patterns that also match groups and optimizers added later."""
    board = logger.experiment
    board.flush()
    # TensorBoard shows the last layout of a run: the user's own, or an earlier fit's, must stay.
    if any(_has_layout(path) for path in Path(logger.log_dir).glob("events.out.tfevents.*")):
        return
    lr = f"{re.escape(_prefix(logger))}lr-.+"
    others = "".join(
        f"(?<!-{name})" for name in dict.fromkeys(("momentum", "weight_decay", *names, *(f"{u}s" for u in UNITS)))
    )
    charts = {"lr": ["Multiline", [rf"{lr}{others}$"]]}
    for name in names:
        charts[name] = ["Multiline", [rf"{lr}-{re.escape(name)}$"]]
    board.add_custom_scalars({"schedule": charts})


def _has_layout(path: Path) -> bool:
    with path.open("rb") as file:
        return LAYOUT_TAG in file.read(MAX_BYTES)


def _names_logged(trainer: TrainerLike) -> list[str]:
    """Return the hyperparameters that are logged beside the lr."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    names = [name for each in schedulers if isinstance(each, ScheduledLR) for name in each.values_at(0) if name != LR]
    return list(dict.fromkeys(names))


def _prefix(logger: TensorBoardLogger) -> str:
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


def _group_tags(prefix: str, groups: list[Group]) -> list[str]:
    if len(groups) == 1:
        return [f"{prefix}/{groups[0]['name']}" if groups[0].get("name") else prefix]
    return [f"{prefix}/{group.get('name', f'pg{number}')}" for number, group in enumerate(groups, start=1)]


# A range test, and a probe --------------------------------------------------------------------------------------------


PREFIX = "lr_range_test"
PROBE = "lr_probe"
RESULT = "result"
FIGURE = "loss_vs_lr"


class Board:
    """Shows the steps of a range test as they come, and its result.

    A logger that raises is left out from then on, with one warning: the test goes on without it.

    Args:
        trainer: the trainer that makes the test.
        loggers: those that show it.
        bar: whether the terminal has a progress bar.
        steps: length of the test at most [optimizer steps], None: not known.
        run_steps: length of the run, for which the table shows a configuration [optimizer steps]; None: not known.
        optimizer: index of the tested optimizer, where each of several is tested; None: there is one test.
    """

    def __init__(
        self,
        trainer: TrainerLike,
        *,
        loggers: Sequence[Logger],
        bar: bool,
        steps: int | None,
        run_steps: int | None = None,
        optimizer: int | None = None,
    ) -> None:
        self._trainer = trainer
        self._prefix = PREFIX if optimizer is None else f"{PREFIX}_{optimizer}"
        self._name = "LR range test" if optimizer is None else f"LR range test of optimizer {optimizer}"
        self._loggers = list(loggers)
        self._guard = Guard("failed to log the LR range test", "the test goes on without it")
        self._run_steps = run_steps or EXAMPLE_STEPS
        self._bar: Any = None  # tqdm has no types
        if bar and trainer.is_global_zero and _is_seen():
            self._bar = Tqdm(total=steps, desc=self._name, file=sys.stdout, dynamic_ncols=True)

    def show_row(self, row: Row) -> None:
        """Send one recorded step to every logger and to the progress bar, without touching the device."""
        # The exponent, too: a chart with a linear axis would show the lr of an exponential sweep as 0 until its end.
        values = {"loss": row.loss, "smoothed_loss": row.smoothed_loss, "lr": row.lr, "log10_lr": math.log10(row.lr)}
        metrics = {f"{self._prefix}/{name}": value for name, value in values.items()}
        self._each(lambda logger: logger.log_metrics(metrics, step=row.step))
        # Module.log would make a tensor on the device for each value, and wait for it.
        self._trainer._logger_connector._progress_bar_metrics.update(lr=row.lr, smoothed_loss=row.smoothed_loss)
        if self._bar is not None:
            self._bar.set_postfix_str(f"lr={row.lr:.3g}, loss={row.smoothed_loss:.4g}", refresh=False)
            self._bar.update(row.step + 1 - self._bar.n)

    def show_result(self, result: RangeTestResult) -> None:
        """Send figure and table to every logger, and end the progress bar."""
        if self._bar is not None:
            self._bar.total = self._bar.n  # complete, also where the test stopped before its last step
            self._bar.set_postfix_str("", refresh=False)  # of the last step, which says little; the name fits the line
            self._bar.set_description_str(f"{self._name} ({result.stop_reason})")
        self.close()
        if self._loggers and result.steps and self._trainer.is_global_zero:
            figure, text = _figure_of(result), result.to_markdown(self._run_steps)
            self._each(lambda logger: _show_findings(logger, self._prefix, result, text, figure))

    def close(self) -> None:
        """End the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _each(self, show: Callable[[Logger], object]) -> None:
        for logger in self._loggers:
            self._guard.send(logger, show)


def show_probe(trainer: TrainerLike, result: ProbeResult) -> None:
    """Send the figure and the line of a probe to every TensorBoard; the numbers are among the hyperparameters."""
    for logger in trainer.loggers if trainer.is_global_zero and result.lrs else ():
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_text"):
            experiment.add_text(f"{PROBE}/{RESULT}", str(result), global_step=0)
            figure = _figure_of(result)
            if figure is not None:
                experiment.add_image(f"{PROBE}/{FIGURE}", _thumbnail(figure), global_step=0, dataformats="HWC")


def _is_seen() -> bool:
    """Return whether a progress bar can overwrite itself: on a terminal or in a notebook, not in a file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def _show_findings(logger: Any, prefix: str, result: RangeTestResult, text: str, figure: Figure | None) -> None:
    """Log figure and table as the logger allows: as image and text, or as files in its folder."""
    experiment: Any = getattr(logger, "experiment", None)
    step = result.steps[-1] + (0 if result.coarse is None else result.coarse.num_steps)
    if hasattr(experiment, "add_text"):  # TensorBoard
        experiment.add_text(f"{prefix}/{RESULT}", text, global_step=step)
        if figure is not None:
            experiment.add_image(f"{prefix}/{FIGURE}", _thumbnail(figure), global_step=step, dataformats="HWC")
    elif hasattr(logger, "log_image") and hasattr(logger, "log_table"):  # Weights & Biases
        rows = [list(row) for row in findings(result)]
        logger.log_table(f"{prefix}/{RESULT}", columns=["LR range test", "value"], data=rows)
        if figure is not None:
            logger.log_image(f"{prefix}/{FIGURE}", [_image(figure)])
    elif hasattr(experiment, "log_figure") and hasattr(experiment, "log_text") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_text(logger.run_id, text, f"{prefix}/{RESULT}.md")
        if figure is not None:
            experiment.log_figure(logger.run_id, figure, f"{prefix}/{FIGURE}.png")
    elif getattr(logger, "log_dir", None):
        _write_files(str(logger.log_dir), prefix.removeprefix(PREFIX), result, text, figure)


def _write_files(folder: str, suffix: str, result: RangeTestResult, text: str, figure: Figure | None) -> None:
    system, path = url_to_fs(folder)  # it may be a bucket or the like
    files = {f"range_test{suffix}.json": result.to_json().encode(), f"range_test{suffix}.md": text.encode()}
    if figure is not None:
        files[f"{FIGURE}{suffix}.png"] = as_png(figure, dpi=120)
    system.makedirs(path, exist_ok=True)
    if system.exists(f"{path}/range_test{suffix}.json"):
        rank_zero_info(f"LR range test: replacing the files of an earlier one in {folder}")
    for name, content in files.items():
        system.pipe_file(f"{path}/{name}", content)


def _thumbnail(figure: Figure) -> NDArray[np.uint8]:
    """Return the picture as an array, a little soft.

    TensorBoard shows about every second pixel of it and leaves out those between: of sharp letters and lines, parts.
    """
    from PIL import ImageFilter  # noqa: PLC0415 - matplotlib brings it

    return np.asarray(_image(figure).convert("RGB").filter(ImageFilter.GaussianBlur(0.8)))


def _image(figure: Figure) -> Image:
    from PIL.Image import open as open_image  # noqa: PLC0415 - matplotlib brings it

    return open_image(io.BytesIO(as_png(figure, dpi=150)))


def _figure_of(result: RangeTestResult | ProbeResult) -> Figure | None:
    try:
        return result.plot()
    except ImportError:
        warnings.warn(
            "no loss-vs-lr figure, because matplotlib is not installed: pip install matplotlib",
            stacklevel=2,
        )
        return None
