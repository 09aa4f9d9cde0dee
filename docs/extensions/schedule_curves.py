"""Curves of the schedules, drawn from the schedules themselves while the site is built.

``.. schedule-curve:: OneCycle``: an example of about 100 steps, its configuration, and its first values.
``.. schedule-gallery::``: a small curve of each schedule, which leads to its place in the reference.

The SVG stands in the page itself: its colours are the page's, light or dark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.directives.tables import ListTable
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from lightning_lrsched import SchedulerConfig

LR, MOMENTUM = 0.1, 0.9
STEPS = 100
FIRST = 5
COLOURS = ("var(--color-brand-content)", "#d9731a", "#2f9e44", "#a855c7")


@dataclass(frozen=True)
class Example:
    """A configuration to draw, on SGD at lr 0.1 with momentum 0.9.

    ``key`` has several values, each with a curve; ``values`` has them by the label of the curve.
    """

    params: dict[str, Any]
    key: str = ""
    values: dict[str, Any] = field(default_factory=dict)


PHASES = [
    {"steps": 20, "lr": 0.1, "momentum": 0.8},
    {"steps": 40},
    {"steps": 40, "lr": 0.02, "momentum": 0.9, "shape": "cosine"},
]
RESTARTS = [
    {"steps": 16, "lr": 0.1},
    {
        "repeat": 3,
        "length_factor": 2,
        "peak_factor": 0.7,
        "phases": [{"steps": 0, "lr": 0.1}, {"steps": 12, "lr": 0.0, "shape": "cosine"}],
    },
]
EXAMPLES = {
    "OneCycle": Example(
        {
            "cycle_min_lr": 0.01,
            "cycle_max_lr": 0.1,
            "cycle_first_step_size": 30,
            "cycle_second_step_size": 60,
            "decay_step_size": 10,
            "decay_lr_rate": 9.0,
        }
    ),
    "WarmupLR": Example(
        {"warmup_max_lr": 0.1, "warmup_num_steps": 60}, "warmup_type", {"log": "log", "linear": "linear"}
    ),
    "WarmupDecayLR": Example({"warmup_max_lr": 0.1, "warmup_num_steps": 20, "total_num_steps": STEPS}),
    "WarmupCosineLR": Example({"warmup_num_steps": 20, "total_num_steps": STEPS}),
    "WarmupStableDecayLR": Example(
        {"warmup_max_lr": 0.1, "warmup_num_steps": 10, "total_num_steps": STEPS, "decay_num_steps": 50},
        "decay_type",
        {shape: shape for shape in ("linear", "cosine", "1-sqrt", "exponential")},
    ),
    "PhasedLR": Example(
        {"phases": PHASES, "start_momentum": 0.9}, "phases", {"three phases": PHASES, "restarts": RESTARTS}
    ),
    "LRRangeTest": Example(
        {"lr_range_test_min_lr": 0.01, "lr_range_test_step_size": 10},
        "lr_range_test_staircase",
        {"line": False, "stairs": True},
    ),
}


def build(name: str) -> dict[str, Any]:
    """Return the schedules of an example by the label of their curve."""
    example = EXAMPLES[name]
    variants = {label: {**example.params, example.key: value} for label, value in example.values.items()}
    return {
        label: SchedulerConfig(name, params).build(torch.optim.SGD([torch.zeros(1)], LR, momentum=MOMENTUM))
        for label, params in (variants or {"": example.params}).items()
    }


def values(name: str) -> dict[str, dict[str, list[float]]]:
    """Return quantity -> label of a curve -> its values at the steps from 0 to 100; other than lr, of the first."""
    found: dict[str, dict[str, list[float]]] = {}
    for label, schedule in build(name).items():
        rows = [schedule.values_at(step) for step in range(STEPS + 1)]
        for quantity in rows[0]:
            if quantity == "lr" or not found.get(quantity):
                curve = "" if quantity != "lr" else label
                found.setdefault(quantity, {})[curve] = [row[quantity][0] for row in rows]
    return found


# Drawing --------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 420, 130
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 22
LEGEND = 16  # the row of labels above the curves
LETTER = 7.3  # about the mean width of a letter


def svg(name: str, *, small: bool = False) -> str:
    """Return lr and, where it is scheduled, momentum of an example as an SVG element."""
    drawn = values(name)
    if small:
        drawn.pop("momentum", None)
    panels = [_panel(quantity, curves, index) for index, (quantity, curves) in enumerate(drawn.items())]
    return (
        f'<svg class="schedule-curve" viewBox="0 0 {WIDTH} {HEIGHT * len(panels) + 16}" role="img"'
        f' aria-label="{name}: {" and ".join(drawn)} at the steps 0 to {STEPS}">{"".join(panels)}'
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT * len(panels) + 12}" text-anchor="middle">step</text></svg>'
    )


def _panel(quantity: str, curves: dict[str, list[float]], index: int) -> str:
    low = 0.0 if quantity == "lr" else min(map(min, curves.values()))
    high = max(map(max, curves.values()))

    top = TOP + LEGEND * (len(curves) > 1)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / STEPS
        y = HEIGHT * index + HEIGHT - BOTTOM - (HEIGHT - top - BOTTOM) * (value - low) / (high - low)
        return round(x, 1), round(y, 1)

    parts = [_tick(*place(0, value), f"{value:g}", "end", -6, 4) for value in (low, (low + high) / 2, high)]
    parts += [_tick(*place(step, low), str(step), "middle", 0, 15) for step in range(0, STEPS + 1, 20)]
    parts += [_grid(place(0, value), place(STEPS, value)) for value in (low, (low + high) / 2, high)]
    beside = float(LEFT)
    for number, (label, series) in enumerate(curves.items()):
        colour = COLOURS[1] if quantity == "momentum" else COLOURS[number]
        points = " ".join("{},{}".format(*place(step, value)) for step, value in enumerate(series))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if label:
            parts.append(_legend(label, colour, round(beside, 1), HEIGHT * index + TOP))
            beside += 34 + LETTER * len(label)
    parts.append(f'<text transform="translate(10,{place(0, (low + high) / 2)[1]}) rotate(-90)"'
                 f' text-anchor="middle">{quantity}</text>')  # fmt: skip
    return "".join(parts)


def _tick(x: float, y: float, text: str, anchor: str, right: float, down: float) -> str:
    return f'<text x="{x + right}" y="{y + down}" text-anchor="{anchor}">{text}</text>'


def _grid(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path d="M{start[0]} {start[1]}H{end[0]}" stroke="currentColor" stroke-opacity="0.2"/>'


def _legend(label: str, colour: str, x: float, y: float) -> str:
    line = f'<path d="M{x} {y - 4}h16" stroke="{colour}" stroke-width="2"/>'
    return f'{line}<text x="{x + 22}" y="{y}">{label}</text>'


# Directives -----------------------------------------------------------------------------------------------------------


class ScheduleCurve(Directive):
    """``.. schedule-curve:: OneCycle``: the curve, then its configuration and first values."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        (name,) = self.arguments
        written = yaml.safe_dump({"type": name, "params": EXAMPLES[name].params}, sort_keys=False, width=100)
        example = nodes.literal_block(written, written, language="yaml")
        return [nodes.raw("", svg(name), format="html"), example, *self._first_values(name)]

    def _first_values(self, name: str) -> list[nodes.Node]:
        rows = ["* - step", *(f"  - {step}" for step in range(FIRST))]
        for quantity, curves in values(name).items():
            for label, series in curves.items():
                rows += [f"* - {quantity} {label}".rstrip(), *(f"  - {value:.4g}" for value in series[:FIRST])]
        options = {"header-rows": 1, "stub-columns": 1, "class": ["first-values"]}
        place = (self.lineno, self.content_offset, "", self.state, self.state_machine)
        return ListTable("list-table", [], options, StringList(rows, source=name), *place).run()


class ScheduleGallery(SphinxDirective):
    """``.. schedule-gallery::``: a small curve of each schedule, with a link."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        return [self._entry(name) for name in EXAMPLES]

    def _entry(self, name: str) -> nodes.Node:
        target = {"refdomain": "py", "reftype": "class", "reftarget": f"lightning_lrsched.{name}"}
        link = addnodes.pending_xref("", refdoc=self.env.docname, refexplicit=True, refwarn=True, **target)
        link += nodes.inline("", "", nodes.raw("", svg(name, small=True), format="html"), nodes.Text(name))
        return nodes.paragraph("", "", link)


def setup(app: Any) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("schedule-curve", ScheduleCurve)
    app.add_directive("schedule-gallery", ScheduleGallery)
    return {"parallel_read_safe": True}
