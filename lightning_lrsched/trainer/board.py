"""Board: an LR range test in a trainer's loggers and in the terminal."""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info

from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.report import EXAMPLE_STEPS, as_png, findings
from lightning_lrsched.range_test.sweep import Row
from lightning_lrsched.trainer.protocol import TrainerLike

PREFIX = "lr_range_test"
RESULT = "result"
FIGURE = "loss_vs_lr"


class Board:
    """Shows the steps of a range test as they come, and its result.

    A logger that raises is left out from then on, with one warning: the test goes on without it.

    Args:
        trainer: the trainer whose loggers show the test.
        log: whether they show it.
        bar: whether the terminal has a progress bar.
        steps: length of the test at most [optimizer steps], None: not known.
        run_steps: length of the run, for which the table shows a configuration [optimizer steps]; None: not known.
        optimizer: index of the tested optimizer, where each of several is tested; None: there is one test.
    """

    def __init__(
        self,
        trainer: TrainerLike,
        *,
        log: bool,
        bar: bool,
        steps: int | None,
        run_steps: int | None = None,
        optimizer: int | None = None,
    ) -> None:
        self._trainer = trainer
        self._prefix = PREFIX if optimizer is None else f"{PREFIX}_{optimizer}"
        self._name = "LR range test" if optimizer is None else f"LR range test of optimizer {optimizer}"
        self._loggers = list(trainer.loggers) if log else []
        self._run_steps = run_steps or EXAMPLE_STEPS
        self._bar: Any = None
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

    def _each(self, show: Callable[[Any], None]) -> None:
        for logger in list(self._loggers):
            self._try(logger, show)

    def _try(self, logger: Any, show: Callable[[Any], None]) -> None:
        try:
            show(logger)
        except Exception as error:  # noqa: BLE001 - the test must not fail because a logger does
            self._loggers.remove(logger)
            warnings.warn(
                f"{type(logger).__name__} failed to log the LR range test ({type(error).__name__}: {error});"
                " the test goes on without it",
                stacklevel=2,
            )


def _is_seen() -> bool:
    """Return whether a progress bar can overwrite itself: on a terminal or in a notebook, not in a file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def _show_findings(logger: Any, prefix: str, result: RangeTestResult, text: str, figure: Any) -> None:
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


def _write_files(folder: str, suffix: str, result: RangeTestResult, text: str, figure: Any) -> None:
    system, path = url_to_fs(folder)  # it may be a bucket or the like
    files = {f"range_test{suffix}.json": result.to_json().encode(), f"range_test{suffix}.md": text.encode()}
    if figure is not None:
        files[f"{FIGURE}{suffix}.png"] = as_png(figure, dpi=120)
    system.makedirs(path, exist_ok=True)
    if system.exists(f"{path}/range_test{suffix}.json"):
        rank_zero_info(f"LR range test: replacing the files of an earlier one in {folder}")
    for name, content in files.items():
        system.pipe_file(f"{path}/{name}", content)


def _thumbnail(figure: Any) -> Any:
    """Return the picture as an array, a little soft.

    TensorBoard shows about every second pixel of it and leaves out those between: of sharp letters and lines, parts.
    """
    from PIL import ImageFilter  # noqa: PLC0415 - matplotlib brings it

    return np.asarray(_image(figure).convert("RGB").filter(ImageFilter.GaussianBlur(0.8)))


def _image(figure: Any) -> Any:
    from PIL import Image  # noqa: PLC0415 - matplotlib brings it

    return Image.open(io.BytesIO(as_png(figure, dpi=150)))


def _figure_of(result: RangeTestResult) -> Any:
    try:
        return result.plot()
    except ImportError:
        warnings.warn(
            "no loss-vs-lr figure, because matplotlib is not installed: pip install 'lightning-lrsched[plots]'",
            stacklevel=2,
        )
        return None
