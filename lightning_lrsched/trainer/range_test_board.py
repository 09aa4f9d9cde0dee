"""What a trainer's loggers and progress bar are shown of an LR range test."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_lrsched.range_test.record import Row
from lightning_lrsched.range_test.result import RangeTestResult


def show_row(trainer: Any, row: Row) -> None:
    """Send one recorded step to every logger and to the progress bar, without touching the device."""
    values = {"loss": row.loss, "smoothed_loss": row.smoothed_loss, "lr": row.lr}
    for logger in trainer.loggers:
        logger.log_metrics({f"lr_range_test/{name}": value for name, value in values.items()}, step=row.step)
    # Module.log would make a tensor on the device for each value, and wait for it.
    trainer._logger_connector._progress_bar_metrics.update(lr=row.lr, smoothed_loss=row.smoothed_loss)


def show_result(trainer: Any, result: RangeTestResult) -> None:
    """Give figure and table to every logger: TensorBoard as image and text, others as files in their folder."""
    if not (trainer.loggers and result.steps and trainer.is_global_zero):
        return
    figure = _figure_of(result)
    for logger in trainer.loggers:
        board = logger.experiment
        if hasattr(board, "add_text"):
            board.add_text("lr_range_test/result", result.to_markdown(), global_step=result.steps[-1])
            if figure is not None:
                figure.set_dpi(150)  # which add_figure takes; sharp when enlarged
                board.add_figure("lr_range_test/loss_vs_lr", figure, global_step=result.steps[-1])
        elif getattr(logger, "log_dir", None):
            folder = Path(logger.log_dir)
            if (folder / "range_test.json").exists():
                rank_zero_info(f"LR range test: replacing the files of an earlier one in {folder}")
            result.save(folder / "range_test.json", overwrite=True)
            (folder / "range_test.md").write_text(result.to_markdown(), encoding="utf-8")
            if figure is not None:
                figure.savefig(folder / "loss_vs_lr.png", dpi=120)


def _figure_of(result: RangeTestResult) -> Any:
    try:
        return result.plot()
    except ImportError:
        warnings.warn(
            "no loss-vs-lr figure, because matplotlib is not installed: pip install 'lightning-lrsched[plots]'",
            stacklevel=2,
        )
        return None
