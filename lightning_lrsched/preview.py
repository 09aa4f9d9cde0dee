"""A schedule seen before it runs: its curves as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_lrsched.schedulers import ClosedFormLR

MOST_POINTS = 2000


def draw(scheduler: ClosedFormLR, total_steps: int) -> Figure:
    """Return a matplotlib figure of lr (and momentum, where it is scheduled) over ``total_steps`` optimizer steps."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is optional

    steps = sorted({round(total_steps * point / MOST_POINTS) for point in range(MOST_POINTS + 1)})
    curves = {"lr": [scheduler.lr_at(step) for step in steps]}
    momenta = [scheduler.momentum_at(step) for step in steps]
    if momenta[0] is not None:
        curves["momentum"] = [values for values in momenta if values is not None]
    figure = Figure(figsize=(7.0, 2.4 * len(curves)), layout="constrained")
    for row, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(len(curves), 1, row)
        lines = axes.plot(steps, values, linewidth=2.0)
        if len(lines) > 1:
            axes.legend(lines, [f"param group {group}" for group in range(len(lines))])
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("optimizer steps finished")
    figure.suptitle(type(scheduler).__name__)
    return figure
