"""A range test in a line, in a table and as a figure."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from lightning_lrsched.range_test.suggest import MAX_OVER_PRIOR, METHODS, NO_FALL, PEAK_OF_EDGE, Curve, ignores_lr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_lrsched.range_test.record import RangeTestResult

EXAMPLE_STEPS = 1000
"""[optimizer steps] Length of training for which the table shows a configuration."""

LOSS, COARSE, TAKEN, TOO_HIGH = "#163a7a", "#d97a2b", "#1b7a34", "#c76b6b"
"""Colours of the figures; what crosses has greys that differ, too."""

NEVER_FELL = "its loss never fell"
OWN_UPDATES = "its updates did not grow with the lr"


# Text -----------------------------------------------------------------------------------------------------------------


def summarize(record: RangeTestResult) -> str:
    """Return the findings in one line."""
    try:
        low, high = record.bounds()
        found = f"suggested lr {record.suggestion():.3g}, bounds for 1Cycle {low:.3g} .. {high:.3g}"
        more = [text for text in (_prior(record), _groups(record)) if text]
        found += f" ({'; '.join(more)})" if more else ""
    except ValueError as reason:
        found = f"no suggestion: {reason}"
    return f"{_course(record)}; {found}"


def _course(record: RangeTestResult) -> str:
    """Return how many steps a test has made, at which learning rates, and why it ended."""
    lrs = f"lr {record.lrs[0]:.3g} .. {record.lrs[-1]:.3g}, " if record.lrs else ""
    return f"{count_steps(record)} optimizer steps, {lrs}stopped because: {record.stop_reason}"


def summarize_one_of_several(record: RangeTestResult) -> str:
    """Return the findings in one line, for one of several optimizers: without remedies that cannot help there."""
    why = why_nothing_among_several(record)
    return summarize(record) if why is None else f"{_course(record)}; it shows no learning rate, because {why}"


def why_nothing_among_several(record: RangeTestResult) -> str | None:
    """Return why the test of one of several optimizers shows no learning rate; None: it shows one.

    Where their losses oppose each other, a loss may rise whatever its own optimizer does, and a prior does not help.
    """
    if has_own_schedule(record):
        return OWN_UPDATES
    try:
        curve = record.curve()
        if curve.is_flat:
            return NEVER_FELL
        if curve.fall < curve.noise:
            return "its loss fell by less than the noise of a single loss"
        record.learning_rates()
    except ValueError as reason:
        return NEVER_FELL if str(reason) == NO_FALL else str(reason)
    return None


def has_own_schedule(record: RangeTestResult) -> bool:
    """Return whether the updates did not grow with the lr: they follow something else, and the losses say nothing."""
    growth = record.update_growth if record.coarse is None else record.coarse.update_growth
    return ignores_lr(growth)


def _prior(record: RangeTestResult) -> str:
    """Return what the prior has to do with the suggestions, nothing where that is nothing."""
    weight = record.curve().doubt()
    return f"prior {record.prior:.3g}, weight {weight:.0%}" if record.prior and round(100 * weight) else ""


def _groups(record: RangeTestResult) -> str:
    """Return whose lr it is, where param groups have different ones."""
    ratios = record.group_ratios
    if len(set(ratios)) == 1:
        return ""
    return f"of param group {ratios.index(max(ratios)) + 1}; all: times {', '.join(f'{ratio:.3g}' for ratio in ratios)}"


def count_steps(record: RangeTestResult) -> str:
    """Return the number of optimizer steps, that of a coarse sweep before it."""
    return f"{record.num_steps}" if record.coarse is None else f"{record.coarse.num_steps} + {record.num_steps}"


def caveats_of(record: RangeTestResult) -> list[str]:
    """Return the caveats, none where the record shows no suggestion: the reason for that is in the summary."""
    try:
        return record.caveats()
    except ValueError:
        return []


def findings(record: RangeTestResult) -> list[tuple[str, str]]:
    """Return names and values of the findings, the important ones first."""
    rows: list[tuple[str, str]] = []
    with suppress(ValueError):  # without a suggestion, the reason is below the table
        low, high = record.bounds()
        rows += [("suggested lr", f"{record.suggestion():.4g}"), ("bounds for 1Cycle", f"{low:.4g} .. {high:.4g}")]
        if record.prior is not None:
            rows.append(("prior of the optimizer", f"{record.prior:.4g}, weight {record.curve().doubt():.0%}"))
        rules = ", ".join(f"{name} {lr:.4g}" for name, lr in rules_of_thumb(record).items())
        rows += [("rules of thumb", rules), *(("caveat", caveat) for caveat in record.caveats())]
    if record.lrs:
        finite = [loss for loss in record.smoothed_losses if math.isfinite(loss)]
        rows.append(("lowest smoothed loss", f"{min(finite):.4g}" if finite else "none is finite"))
        rows.append(("learning rates", f"{record.lrs[0]:.4g} .. {record.lrs[-1]:.4g}"))
    rows += [("growth", record.mode), ("steps", count_steps(record)), ("stopped because", str(record.stop_reason))]
    return rows


def as_html(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values as the HTML table that a notebook shows."""
    left = ' style="text-align: left"'
    lines = (f"<tr><th{left}>{escape(name)}</th><td{left}>{escape(value)}</td></tr>" for name, value in rows)
    return "\n".join([f"<table><caption>{escape(title)}</caption>", *lines, "</table>"])


def rules_of_thumb(record: RangeTestResult) -> dict[str, float]:
    """Return what the rules other than the default suggest; where they differ widely, look at the curve."""
    found = {}
    for name in METHODS:
        with suppress(ValueError):  # it may lie below the lrs that were tested
            if name != "edge":
                found[name] = record.suggestion(name)
    return found


def describe(record: RangeTestResult, one_cycle: Callable[[int], dict[str, Any]], steps: int) -> str:
    """Return the findings as a Markdown table, the important ones first; below it the configuration they lead to.

    Args:
        record: the test.
        one_cycle: returns the configuration for a number of optimizer steps.
        steps: that number.
    """
    lines = ["| LR range test | |", "|---|---|", *(f"| {name} | {value} |" for name, value in findings(record))]
    rows = "\n".join(lines)
    try:
        section = one_cycle(steps)
    except ValueError as reason:
        return f"{rows}\n\nNo suggestion: {reason}\n"
    # More than four digits mean nothing here.
    params = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in section["params"].items()}
    config = json.dumps({"scheduler": {**section, "params": params}}, indent=2)
    return f"{rows}\n\nReady for a training of {steps} optimizer steps:\n\n```json\n{config}\n```\n"


# Figures --------------------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, its size in inches, which a notebook shows as a picture.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        raise ImportError("a picture needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    # IPython asks the object for its picture; matplotlib answers only for figures that pyplot manages.
    figure._repr_png_ = partial(as_png, figure)  # type: ignore[attr-defined]
    return figure


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def scale_lrs(axes: Axes) -> None:
    """Let the lr axis be logarithmic, with labels that do not overlap, and at least two of them."""
    from matplotlib.ticker import (  # noqa: PLC0415 - matplotlib is optional
        FormatStrFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high < 100 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 10 * low else MaxNLocator(4))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure) -> None:
    """Name what is drawn below the axes, where no curve is."""
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False, columnspacing=1.2)


def draw(record: RangeTestResult) -> Figure:
    """Draw the losses against the lr; mark what was taken, and from which lr on the loss rises: that is the reason."""
    figure = new_figure(4.5, 3.8)  # small: the text must stay legible where a page shows the figure in a narrow column
    axes = figure.add_subplot()
    coarse = _coarse_rows(record)
    if coarse:
        axes.plot(*zip(*coarse, strict=True), color=COARSE, linewidth=0.8)
        axes.annotate("coarse sweep", coarse[0], (0, 5), textcoords="offset points", color=COARSE, fontsize=9)
    axes.plot(record.lrs, record.losses, ".", color=LOSS, markersize=4, alpha=0.3)
    axes.plot(record.lrs, record.smoothed_losses, color=LOSS, linewidth=2.2, label="loss, smoothed")
    if record.mode == "exponential":
        scale_lrs(axes)
    losses = [*(loss for _, loss in coarse), *record.losses]
    _limit_losses(axes, losses)
    try:
        curve, (low, high), suggested = record.curve(), record.bounds(), record.suggestion()
    except ValueError:
        figure.suptitle(f"LR range test: no suggestion\n({record.stop_reason})", fontsize=10)
    else:
        figure.suptitle(f"LR range test\n{_reason(curve)}", fontsize=10)
        if not curve.is_flat:  # far above its start, the loss says only that it explodes
            _limit_losses(axes, losses, max(curve.start, losses[0]) + curve.noise)
        axes.axvline(suggested, color=TAKEN, linewidth=2.0, linestyle="--", label=f"good fixed lr: {suggested:.2g}")
        axes.axvspan(low, high, color=TAKEN, alpha=0.2, linewidth=0, label=f"1Cycle: {low:.2g} to {high:.2g}")
        if curve.climb() is not None:
            end = axes.get_xlim()[1]
            span = axes.axvspan(curve.edge(), end, fill=False, hatch="///", edgecolor=TOO_HIGH, linewidth=0)
            span.set_label(f"too high: from {curve.edge():.2g}")
            axes.set_xlim(right=end)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(color="0.3", alpha=0.15)
    add_legend(figure)
    return figure


def _reason(curve: Curve) -> str:
    """Return in a few words how the highest lr follows from the curve."""
    usual = f"the usual peak {curve.prior:.2g}" if curve.prior is not None else ""
    if curve.is_flat:
        return f"the loss never fell: at most {usual}"
    share = {0.5: "half", 0.25: "a quarter"}[PEAK_OF_EDGE[curve.mode]]
    if curve.climb() is None:
        return f"the loss did not rise: at most {usual or f'{share} of the last lr'}"
    peak, safe = curve.peak(), PEAK_OF_EDGE[curve.mode] * curve.edge()
    if peak < curve.drawn():
        return f"highest lr: {MAX_OVER_PRIOR:g} times {usual}"
    if peak < 0.95 * safe:
        return f"highest lr: {share} of {curve.edge():.2g}, drawn to the usual {curve.prior:.2g}"
    return f"highest lr: {share} of {curve.edge():.2g}, where it begins to harm"


def _coarse_rows(record: RangeTestResult) -> list[tuple[float, float]]:
    """Return lr and loss of the coarse sweep, from two decades below the fine one: more would press that flat."""
    if record.coarse is None:
        return []
    begin = record.lrs[0] / 100 if record.lrs else 0.0
    return [row for row in zip(record.coarse.lrs, record.coarse.losses, strict=True) if row[0] >= begin]


def draw_comparison(records: Mapping[str, RangeTestResult]) -> Figure:
    """Draw several tests over each other: smoothed loss (left) and lr (right) against the optimizer step."""
    figure = new_figure(10.0, 4.0)
    left, right = figure.subplots(1, 2)
    for name, record in records.items():
        left.plot(record.steps, record.smoothed_losses, linewidth=2.0, label=name)
        right.plot(record.steps, record.lrs, linewidth=2.0, label=name)
    _limit_losses(left, [loss for record in records.values() for loss in record.smoothed_losses])
    for axes, what in ((left, "smoothed loss"), (right, "learning rate")):
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(what)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def _limit_losses(axes: Axes, losses: list[float], top: float = math.inf) -> None:
    """Keep an explosion at the end from pressing the interesting part flat: what is far above ``top`` is cut off."""
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if finite:
        low, high = finite[0], min(top, finite[int(0.9 * (len(finite) - 1))])
        margin = (high - low) or 1.0
        axes.set_ylim(low - 0.08 * margin, high + 0.4 * margin)
