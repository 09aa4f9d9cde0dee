"""A range test as a table of its findings, in Markdown and in HTML."""

from __future__ import annotations

import base64
import html
import json
import math
from typing import TYPE_CHECKING, Any

from lightning_lrsched.range_test.plots import as_png, draw, rules_of_thumb

if TYPE_CHECKING:
    from lightning_lrsched.range_test.result import RangeTestResult

EXAMPLE_STEPS = 1000
"""[optimizer steps] Length of training for which the table shows a configuration."""


def summarize(result: RangeTestResult) -> str:
    """Return the findings in one line."""
    lrs = f"lr {result.lrs[0]:.3g} .. {result.lrs[-1]:.3g}, " if result.lrs else ""
    try:
        low, high = result.bounds()
        found = f"suggested lr {result.suggestion():.3g}, bounds for 1Cycle {low:.3g} .. {high:.3g}{_drawn(result)}"
    except ValueError as reason:
        found = f"no suggestion: {reason}"
    return f"{count_steps(result)} optimizer steps, {lrs}stopped because: {result.stop_reason}; {found}"


def _drawn(result: RangeTestResult) -> str:
    """Return what the prior has to do with the suggestions, nothing where that is nothing."""
    weight = result.curve().doubt()
    return f" (prior {result.prior:.3g}, weight {weight:.0%})" if result.prior and round(100 * weight) else ""


def caveats_of(result: RangeTestResult) -> list[str]:
    """Return the caveats, none where the record shows no suggestion: the reason for that is in the summary."""
    try:
        return result.caveats()
    except ValueError:
        return []


def describe(result: RangeTestResult) -> str:
    """Return the findings as a Markdown table, the important ones first; below it the configuration they lead to."""
    lines = ["| LR range test | |", "|---|---|", *(f"| {name} | {value} |" for name, value in findings(result))]
    return "\n".join([*lines, "", _ready(result), ""])


def findings(result: RangeTestResult) -> list[tuple[str, str]]:
    """Return names and values of the findings, the important ones first."""
    rows = _suggestions(result)
    if result.lrs:
        finite = [loss for loss in result.smoothed_losses if math.isfinite(loss)]
        rows.append(("lowest smoothed loss", f"{min(finite):.4g}" if finite else "none is finite"))
        rows.append(("learning rates", f"{result.lrs[0]:.4g} .. {result.lrs[-1]:.4g}"))
    return [
        *rows,
        ("growth", result.mode),
        ("steps", count_steps(result)),
        ("stopped because", str(result.stop_reason)),
    ]


def count_steps(result: RangeTestResult) -> str:
    """Return the number of optimizer steps, that of a coarse sweep before it."""
    return f"{result.num_steps}" if result.coarse is None else f"{result.coarse.num_steps} + {result.num_steps}"


def _suggestions(result: RangeTestResult) -> list[tuple[str, str]]:
    try:
        low, high = result.bounds()
        rules = ", ".join(f"{name} {lr:.4g}" for name, lr in rules_of_thumb(result).items())
        rows = [("suggested lr", f"{result.suggestion():.4g}"), ("bounds for 1Cycle", f"{low:.4g} .. {high:.4g}")]
        if result.prior is not None:
            rows.append(("prior of the optimizer", f"{result.prior:.4g}, weight {result.curve().doubt():.0%}"))
        return [*rows, ("rules of thumb", rules), *(("caveat", caveat) for caveat in caveats_of(result))]
    except ValueError:
        return []  # the reason is below the table


def _ready(result: RangeTestResult) -> str:
    """Return the configuration that the findings lead to, or why there is none."""
    try:
        config = json.dumps({"scheduler": _rounded(result.one_cycle(EXAMPLE_STEPS))}, indent=2)
    except ValueError as reason:
        return f"No suggestion: {reason}"
    return f"Ready for a training of {EXAMPLE_STEPS} optimizer steps:\n\n```json\n{config}\n```"


def _rounded(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose numbers can be read; more than four digits mean nothing here."""
    params = config["params"].items()
    return {**config, "params": {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in params}}


def as_html(result: RangeTestResult) -> str:
    """Return figure and findings as HTML; the findings alone where matplotlib is missing."""
    text = f"<pre>{html.escape(describe(result))}</pre>"
    try:
        figure = draw(result)
    except ImportError:
        return text
    encoded = base64.b64encode(as_png(figure)).decode("ascii")
    return f'<img alt="LR range test" src="data:image/png;base64,{encoded}"/>{text}'


def hyperparameters(result: RangeTestResult) -> dict[str, Any]:
    """Return what a logger keeps of a test: suggestion and bounds where there are any, length and end."""
    record: dict[str, Any] = {"steps": len(result.steps), "stop_reason": str(result.stop_reason)}
    if result.coarse is not None:
        record["coarse_steps"] = len(result.coarse.steps)
    try:
        (low, high), suggested = result.bounds(), result.suggestion()
    except ValueError:
        return record
    return {"suggestion": suggested, "low": low, "high": high, **record}
