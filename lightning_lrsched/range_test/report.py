"""The picture of a range test: loss against learning rate, with what was found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from lightning_lrsched.range_test.result import RangeTestResult


def draw(result: RangeTestResult) -> Figure:
    """Draw loss and smoothed loss against the lr; mark bounds and suggestion where the record shows them."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(result.lrs, result.losses, color="0.75", linewidth=1.0, label="loss")
    axes.plot(result.lrs, result.smoothed_losses, color="tab:blue", linewidth=2.0, label="smoothed loss")
    if result.mode == "exponential":
        axes.set_xscale("log")
    finite = sorted(loss for loss in result.smoothed_losses if math.isfinite(loss))
    if finite:
        # An explosion at the end would press the interesting part flat.
        low, high = finite[0], finite[min(len(finite) - 1, int(0.9 * len(finite)))]
        axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    try:
        low_lr, high_lr = result.bounds()
        suggested = result.suggestion()
    except ValueError:
        axes.set_title(f"LR range test: no suggestion (stopped: {result.stop_reason})")
    else:
        axes.axvspan(low_lr, high_lr, color="tab:green", alpha=0.12, label=f"bounds {low_lr:.2g} .. {high_lr:.2g}")
        axes.axvline(suggested, color="tab:red", linestyle="--", label=f"suggestion {suggested:.2g}")
        axes.set_title(f"LR range test (stopped: {result.stop_reason})")
    if result.stop_reason in ("diverged", "non-finite loss") and result.lrs:
        axes.axvline(result.lrs[-1], color="black", linestyle=":", label=f"diverged at {result.lrs[-1]:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    return figure
