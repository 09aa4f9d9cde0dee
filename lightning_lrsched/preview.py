"""A schedule seen before it runs: its curves as a table, as CSV, as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning_lrsched.range_test.plots import new_figure
from lightning_lrsched.schedulers import ClosedFormLR

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.optim.lr_scheduler import LRScheduler

MOST_POINTS = 2000
TABLE_ROWS = 20
FIRST_STEPS = 5
"""The first steps of a warmup are where schedules differ most from what people expect."""

Row = tuple[int, list[float], list[float] | None]


def curve(scheduler: LRScheduler, total_steps: int, steps: Iterable[int]) -> list[Row]:
    """Return (step, lr of each group, momentum of each group or None) for some of ``total_steps`` optimizer steps.

    >>> import torch
    >>> from lightning_lrsched import WarmupLR
    >>> schedule = WarmupLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), warmup_max_lr=1.0, warmup_num_steps=4)
    >>> curve(schedule, 10, [0, 2, 10])
    [(0, [0.0], None), (2, [0.5], None), (10, [1.0], None)]
    """
    if isinstance(scheduler, ClosedFormLR):
        return [(step, scheduler.lr_at(step), scheduler.momentum_at(step)) for step in steps]
    # torch's own have no lr_at: they are walked along, on an optimizer that nobody uses.
    wanted = set(steps)
    rows: list[Row] = []
    for step in range(total_steps + 1):
        if step:
            scheduler.optimizer.step()
            scheduler.step()
        if step in wanted:
            rows.append((step, [float(lr) for lr in scheduler.get_last_lr()], None))
    return rows


def table(scheduler: LRScheduler, total_steps: int) -> str:
    """Return the curves as a plain-text table of about twenty rows, the first steps one by one."""
    steps = {round(total_steps * row / TABLE_ROWS) for row in range(TABLE_ROWS + 1)}
    steps |= set(range(min(FIRST_STEPS, total_steps) + 1))
    rows = curve(scheduler, total_steps, sorted(steps))
    lines = [_columns(rows[0])] + [
        [str(step), *(f"{value:.6g}" for value in [*lrs, *(momenta or [])])] for step, lrs, momenta in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def to_csv(scheduler: LRScheduler, total_steps: int) -> str:
    """Return the curves as CSV, one line per optimizer step, every digit."""
    rows = curve(scheduler, total_steps, range(total_steps + 1))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(rows[0]))
    writer.writerows([step, *lrs, *(momenta or [])] for step, lrs, momenta in rows)
    return text.getvalue()


def _columns(row: Row) -> list[str]:
    _, lrs, momenta = row
    numbers = [""] if len(lrs) == 1 else [f"/pg{number}" for number in range(1, len(lrs) + 1)]
    return ["step", *(f"lr{n}" for n in numbers), *(f"momentum{n}" for n in (numbers if momenta is not None else []))]


def draw(scheduler: LRScheduler, total_steps: int) -> Figure:
    """Return a matplotlib figure of lr (and momentum, where it is scheduled) over ``total_steps`` optimizer steps.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    steps = sorted({round(total_steps * point / MOST_POINTS) for point in range(MOST_POINTS + 1)})
    rows = curve(scheduler, total_steps, steps)
    curves: dict[str, Any] = {"lr": [lrs for _, lrs, _ in rows]}
    if rows[0][2] is not None:
        curves["momentum"] = [momenta for _, _, momenta in rows]
    figure = new_figure(7.0, 2.4 * len(curves))
    for row, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(len(curves), 1, row)
        lines = axes.plot(steps, values, linewidth=2.0)
        if len(lines) > 1:
            axes.legend(lines, [f"param group {group}" for group in range(1, len(lines) + 1)])
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("optimizer steps finished")
    figure.suptitle(type(scheduler).__name__)
    return figure


def natural_length(scheduler: LRScheduler) -> int:
    """Return how many steps show the whole of a schedule, for who does not say how long the run is."""
    of = {**vars(scheduler), **(scheduler.hyperparameters if isinstance(scheduler, ClosedFormLR) else {})}
    for key in ("total_num_steps", "num_steps", "total_steps"):
        if of.get(key):
            return int(of[key])
    if "cycle_first_step_size" in of:
        return int(of["cycle_first_step_size"] + of["cycle_second_step_size"] + 2 * of["decay_step_size"])
    return int(
        2 * of.get("warmup_num_steps", 0) or 5 * of.get("lr_range_test_step_size", 0) or of.get("T_max", 0) or 100
    )
