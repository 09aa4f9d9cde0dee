"""A range test as a figure: loss against learning rate."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_lrsched.range_test.divergence import StopReason
from lightning_lrsched.range_test.suggestions import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_lrsched.range_test.result import RangeTestResult

DIVERGED = (StopReason.DIVERGED, StopReason.NON_FINITE, StopReason.SKIPPED)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, its size in inches, which a notebook shows as a picture.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        raise ImportError("a picture needs matplotlib: pip install 'lightning-lrsched[plots]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    # IPython asks the object for its picture; matplotlib answers only for figures that pyplot manages.
    figure._repr_png_ = partial(as_png, figure)  # type: ignore[attr-defined]
    return figure


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def rules_of_thumb(result: RangeTestResult) -> dict[str, float]:
    """Return what the rules other than the default suggest; where they differ widely, look at the curve."""
    found = {}
    for name in METHODS:
        with suppress(ValueError):  # it may lie below the lrs that were tested
            if name != "edge":
                found[name] = result.suggestion(name)
    return found


def draw(result: RangeTestResult) -> Figure:
    """Draw loss and smoothed loss against the lr; mark bounds, suggestions and divergence where there are any."""
    figure = new_figure(5.2, 3.5)  # small: the text must stay legible where a page shows the figure in a narrow column
    axes = figure.add_subplot()
    coarse = _coarse_rows(result)
    if coarse:
        axes.plot(*zip(*coarse, strict=True), color="0.57", linewidth=0.6, label="loss of the coarse sweep")
    axes.plot(result.lrs, result.losses, color="0.57", linewidth=1.2, label="loss")
    axes.plot(result.lrs, result.smoothed_losses, color="tab:blue", linewidth=2.0, label="smoothed loss")
    if result.mode == "exponential":
        axes.set_xscale("log")
    _limit_losses(axes, [*(loss for _, loss in coarse), *result.losses])
    try:
        (low, high), suggested = result.bounds(), result.suggestion()
    except ValueError:
        axes.set_title(f"LR range test: no suggestion (stopped: {result.stop_reason})")
    else:
        axes.set_title(f"LR range test (stopped: {result.stop_reason})", pad=34)
        axes.axvspan(low, high, color="tab:green", alpha=0.12, label=f"bounds {low:.2g} .. {high:.2g}")
        axes.axvline(suggested, color="tab:red", linestyle="--", label=f"suggested fixed lr {suggested:.2g}")
        weight = result.curve().doubt()
        if result.prior is not None and round(100 * weight):
            axes.axvline(result.prior, color="tab:purple", linestyle="-.", linewidth=1.0,
                         label=f"prior {result.prior:.2g}, weight {weight:.0%}")  # fmt: skip
        _mark_rules(axes, rules_of_thumb(result))
    _mark_minimum(axes, result)
    if result.stop_reason in DIVERGED and result.lrs:
        axes.axvline(result.lrs[-1], color="0.4", linestyle=":", label=f"diverged at {result.lrs[-1]:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(loc="lower left" if result.mode == "exponential" else "lower right", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def _mark_rules(axes: Axes, rules: dict[str, float]) -> None:
    """Mark learning rates at the upper edge, with their names side by side above it."""
    axes.set_xlim(axes.get_xlim())
    edge = axes.get_ylim()[1]
    ordered = sorted(rules.items(), key=itemgetter(1))
    shares = [float(axes.transAxes.inverted().transform(axes.transData.transform((lr, edge)))[0]) for _, lr in ordered]
    for (name, lr), share in zip(ordered, _side_by_side(shares), strict=True):
        axes.plot([lr], [edge], marker="v", color="tab:red", markersize=6, clip_on=False)
        axes.annotate(name, (lr, 1.0), (share, 1.1), ("data", "axes fraction"), "axes fraction", ha="center",
                      va="bottom", color="tab:red", fontsize=9, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": "tab:red", "shrinkA": 0, "shrinkB": 0})  # fmt: skip


def _side_by_side(shares: Sequence[float], width: float = 0.16) -> list[float]:
    """Return places, in shares of the axes, at least ``width`` apart and as near as that allows.

    >>> _side_by_side([0.5, 0.5], width=0.2)
    [0.4, 0.6]
    """
    places: list[float] = []
    for share in shares:
        places.append(max(share, places[-1] + width) if places else share)
    if not places:
        return []
    move = fmean(shares) - fmean(places)
    most, least = 1 - width / 2 - places[-1], width / 2 - places[0]
    return [place + max(min(move, most), least) for place in places]


def _mark_minimum(axes: Axes, result: RangeTestResult) -> None:
    """Mark the lowest smoothed loss."""
    finite = [(loss, lr) for loss, lr in zip(result.smoothed_losses, result.lrs, strict=True) if math.isfinite(loss)]
    if finite:
        loss, lr = min(finite)
        axes.plot([lr], [loss], marker="o", markersize=7, markerfacecolor="none", markeredgewidth=1.5, linestyle="",
                  color="tab:blue", label=f"lowest {loss:.2g} at {lr:.2g}")  # fmt: skip


def _coarse_rows(result: RangeTestResult) -> list[tuple[float, float]]:
    """Return lr and loss of the coarse sweep, from two decades below the fine one: more would press that flat."""
    if result.coarse is None:
        return []
    begin = result.lrs[0] / 100 if result.lrs else 0.0
    return [row for row in zip(result.coarse.lrs, result.coarse.losses, strict=True) if row[0] >= begin]


def draw_comparison(results: Mapping[str, RangeTestResult]) -> Figure:
    """Draw several tests over each other: smoothed loss (left) and lr (right) against the optimizer step."""
    figure = new_figure(10.0, 4.0)
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        left.plot(result.steps, result.smoothed_losses, linewidth=2.0, label=name)
        right.plot(result.steps, result.lrs, linewidth=2.0, label=name)
    _limit_losses(left, [loss for result in results.values() for loss in result.smoothed_losses])
    for axes, what in ((left, "smoothed loss"), (right, "learning rate")):
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(what)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def _limit_losses(axes: Axes, losses: list[float]) -> None:
    """Keep an explosion at the end from pressing the interesting part flat."""
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if finite:
        low, high = finite[0], finite[int(0.9 * (len(finite) - 1))]
        margin = (high - low) or 1.0
        axes.set_ylim(low - 0.08 * margin, high + 0.4 * margin)
