"""Preview of a schedule: its lr and momentum as a table, as CSV, or as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_lrsched.config.config_file import Row
from lightning_lrsched.range_test.report import new_figure
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.durations import STEPS, Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 2000
TABLE_ROWS = 20
FIRST_STEPS = 5
"""The first steps of a warmup are where schedules differ most from what people expect."""


def rows_of(schedule: ClosedFormLR, steps: Sequence[int]) -> list[Row]:
    """Return (step, lr of each group, momentum of each group or None) at some optimizer steps.

    >>> import torch
    >>> from lightning_lrsched import WarmupLR
    >>> schedule = WarmupLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), warmup_max_lr=1.0, warmup_num_steps=4)
    >>> rows_of(schedule, [0, 2, 10])
    [(0, [0.0], None), (2, [0.5], None), (10, [1.0], None)]
    """
    return [(step, schedule.lr_at(step), schedule.momentum_at(step)) for step in steps]


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
    """Return lr and momentum as a plain-text table."""
    lines = [_columns(rows[0], unit)] + [
        [str(step), *(f"{value:.6g}" for value in [*lrs, *(momenta or [])])] for step, lrs, momenta in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def to_csv(rows: Sequence[Row], unit: Unit = STEPS) -> str:
    """Return lr and momentum as CSV, every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(rows[0], unit))
    writer.writerows([step, *lrs, *(momenta or [])] for step, lrs, momenta in rows)
    return text.getvalue()


def _columns(row: Row, unit: Unit) -> list[str]:
    _, lrs, momenta = row
    numbers = [""] if len(lrs) == 1 else [f"/pg{number}" for number in range(1, len(lrs) + 1)]
    return [unit, *(f"lr{n}" for n in numbers), *(f"momentum{n}" for n in (numbers if momenta is not None else []))]


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
    """Return a matplotlib figure of lr (and momentum, where it is scheduled) over the position.

    Args:
        title: the type of the schedule.
        rows: what :func:`rows_of` returns.
        turns: positions at which the parts of the schedule end, marked by dotted lines.
        unit: what the position counts.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    curves: dict[str, Any] = {"lr": [lrs for _, lrs, _ in rows]}
    if rows[0][2] is not None:
        curves["momentum"] = [momenta for _, _, momenta in rows]
    figure = new_figure(7.0, 2.4 * len(curves))
    for row, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(len(curves), 1, row)
        for curve, groups in _curves(values).items():
            axes.plot([step for step, _, _ in rows], curve, linewidth=2.0, label=groups)
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
