"""A range test shown: loss against learning rate as a figure, the findings as a table."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_lrsched.range_test.figure import new_figure
from lightning_lrsched.range_test.suggestions import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_lrsched.range_test.result import RangeTestResult

EXAMPLE_STEPS = 1000
"""The length of training for which the table spells out a configuration."""

RULES_OF_THUMB = [name for name in METHODS if name != "edge"]
"""Marked beside the suggestion; where they disagree widely, the curve deserves a look."""

DIVERGED = ("diverged", "non-finite loss", "skipped steps")


def draw(result: RangeTestResult) -> Figure:
    """Draw loss and smoothed loss against the lr; mark bounds, suggestions and divergence where there are any."""
    figure = new_figure(5.2, 3.5)  # small: the text must be legible where a page shows the figure a hand wide
    axes = figure.add_subplot()
    axes.plot(result.lrs, result.losses, color="0.57", linewidth=1.0, label="loss")
    axes.plot(result.lrs, result.smoothed_losses, color="tab:blue", linewidth=2.0, label="smoothed loss")
    if result.mode == "exponential":
        axes.set_xscale("log")
    _limit_losses(axes, result.losses)
    try:
        (low, high), suggested = result.bounds(), result.suggestion()
    except ValueError:
        axes.set_title(f"LR range test: no suggestion (stopped: {result.stop_reason})")
    else:
        axes.set_title(f"LR range test (stopped: {result.stop_reason})", pad=10)
        axes.axvspan(low, high, color="tab:green", alpha=0.12, label=f"bounds {low:.2g} .. {high:.2g}")
        axes.axvline(suggested, color="tab:red", linestyle="--", label=f"suggested fixed lr {suggested:.2g}")
        top = axes.get_ylim()[1]
        for name in RULES_OF_THUMB:
            lr = result.suggestion(name)
            axes.plot([lr], [top], marker="v", color="tab:red", markersize=7, clip_on=False)
            axes.annotate(name, (lr, top), (0, -7), textcoords="offset points", rotation=90, ha="center", va="top",
                          fontsize=7, color="tab:red")  # fmt: skip
    if result.stop_reason in DIVERGED and result.lrs:
        axes.axvline(result.lrs[-1], color="0.4", linestyle=":", label=f"diverged at {result.lrs[-1]:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(loc="lower left", fontsize=8)
    axes.grid(alpha=0.3)
    return figure


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


def describe(result: RangeTestResult) -> str:
    """Return the findings as a Markdown table, the important ones first; below it the configuration they lead to."""
    try:
        low, high = result.bounds()
        rules = ", ".join(f"{name} {result.suggestion(name):.4g}" for name in RULES_OF_THUMB)
        rows = [("suggested lr", f"{result.suggestion():.4g}"), ("bounds for 1Cycle", f"{low:.4g} .. {high:.4g}")]
        rows += [("rules of thumb", rules), *(("caveat", caveat) for caveat in result.caveats())]
        config = json.dumps({"scheduler": _rounded(result.one_cycle(EXAMPLE_STEPS))}, indent=2)
        ready = f"Ready for a training of {EXAMPLE_STEPS} optimizer steps:\n\n```json\n{config}\n```"
    except ValueError as reason:
        rows, ready = [], f"No suggestion: {reason}"
    if result.lrs:
        finite = [loss for loss in result.smoothed_losses if math.isfinite(loss)]
        rows.append(("lowest smoothed loss", f"{min(finite):.4g}" if finite else "none is finite"))
        rows.append(("learning rates", f"{result.lrs[0]:.4g} .. {result.lrs[-1]:.4g}"))
    rows += [("growth", result.mode), ("steps", str(len(result.steps))), ("stopped because", result.stop_reason)]
    lines = ["| LR range test | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, "", ready, ""])


def _rounded(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose numbers can be read; more than four digits say nothing here."""
    params = config["params"].items()
    return {**config, "params": {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in params}}


def as_html(result: RangeTestResult) -> str:
    """Return figure and findings as HTML; the findings alone where matplotlib is missing."""
    text = f"<pre>{html.escape(describe(result))}</pre>"
    try:
        figure = draw(result)
    except ImportError:
        return text
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    encoded = base64.b64encode(picture.getvalue()).decode("ascii")
    return f'<img alt="LR range test" src="data:image/png;base64,{encoded}"/>{text}'
