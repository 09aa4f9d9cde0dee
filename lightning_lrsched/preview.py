"""Preview of a schedule: its values as a table, as CSV, or as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_lrsched.config.config_file import Row
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.report import new_figure
from lightning_lrsched.schedules.length import STEPS, Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 2000
TABLE_ROWS = 20
FIRST_STEPS = 5
"""The first steps of a warmup are where schedules differ most from what people expect."""


def rows_of(schedule: ScheduledLR, steps: Sequence[int]) -> list[Row]:
    """Return (step, name -> value of each param group) at some optimizer steps.

    >>> import torch
    >>> from lightning_lrsched import WarmupLR
    >>> schedule = WarmupLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), warmup_max_lr=1.0, warmup_num_steps=4)
    >>> rows_of(schedule, [0, 2, 10])
    [(0, {'lr': [0.0]}), (2, {'lr': [0.5]}), (10, {'lr': [1.0]})]
    """
    return [(step, schedule.values_at(step)) for step in steps]


def table_steps(total_steps: int, turns: Sequence[int] = (), unit: Unit = STEPS) -> list[int]:
    """Return about twenty steps that show a run, those at which its parts end, and the first optimizer steps."""
    steps = {round(total_steps * row / TABLE_ROWS) for row in range(TABLE_ROWS + 1)}
    ends = {turn for turn in turns if turn <= total_steps}
    first = set(range(min(FIRST_STEPS, total_steps) + 1)) if unit == STEPS else set()
    return sorted(steps | ends | first)


def picture_steps(total_steps: int) -> list[int]:
    """Return as many steps of a run as a picture can show."""
    return sorted({round(total_steps * point / MAX_POINTS) for point in range(MAX_POINTS + 1)})


def table(rows: Sequence[Row], unit: Unit = STEPS) -> str:
    """Return the values as a plain-text table."""
    lines = [_columns(rows[0], unit)] + [
        [str(step), *(f"{value:.6g}" for of_groups in values.values() for value in of_groups)] for step, values in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def to_csv(rows: Sequence[Row], unit: Unit = STEPS) -> str:
    """Return the values as CSV, every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(rows[0], unit))
    writer.writerows([step, *(value for of_groups in values.values() for value in of_groups)] for step, values in rows)
    return text.getvalue()


def _columns(row: Row, unit: Unit) -> list[str]:
    names, groups = row[1], len(row[1]["lr"])
    numbers = [""] if groups == 1 else [f"/pg{number}" for number in range(1, groups + 1)]
    return [unit, *(f"{name}{number}" for name in names for number in numbers)]


def _curves(values: Sequence[Sequence[float]]) -> dict[tuple[float, ...], str]:
    """Return each different curve with the param groups that have it: of equal lines only the last would be seen.

    >>> _curves([[0.0, 0.0, 1.0], [0.5, 0.5, 1.0]])
    {(0.0, 0.5): 'param groups 1, 2', (1.0, 1.0): 'param group 3'}
    """
    groups: dict[tuple[float, ...], list[str]] = {}
    for number, curve in enumerate(zip(*values, strict=True), start=1):
        groups.setdefault(curve, []).append(str(number))
    return {curve: f"param group{'s' * (len(n) > 1)} {', '.join(n)}" for curve, n in groups.items()}


def draw(title: str, rows: Sequence[Row], turns: Sequence[int] = (), unit: Unit = STEPS) -> Figure:
    """Return a matplotlib figure of lr (and what else is scheduled) over the position.

    Args:
        title: the type of the schedule.
        rows: what :func:`rows_of` returns.
        turns: positions at which the parts of the schedule end, marked by dotted lines.
        unit: what the position counts.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    curves = {name: [values[name] for _, values in rows] for name in rows[0][1]}
    figure = new_figure(7.0, 2.4 * len(curves))
    for row, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(len(curves), 1, row)
        for curve, groups in _curves(values).items():
            axes.plot([step for step, _ in rows], curve, linewidth=2.0, label=groups)
        if len(values[0]) > 1:
            axes.legend()
        for turn in turns:
            if turn <= rows[-1][0]:
                axes.axvline(turn, color="grey", linestyle=":", linewidth=1.0)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("optimizer steps finished" if unit == STEPS else f"{unit}s")
    figure.suptitle(title)
    return figure
