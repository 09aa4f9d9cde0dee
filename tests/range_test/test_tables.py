"""The table of a range test's findings: what it says, and in which order."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from lightning_lrsched.range_test.tables import hyperparameters, summarize
from tests.kit.records import shortened, sweep


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))


def test_the_table_begins_with_what_the_next_training_needs():
    result = sweep()
    low, high = result.bounds()
    found = rows(result.to_markdown())
    assert list(found)[:2] == ["suggested lr", "bounds for 1Cycle"]
    assert found["suggested lr"] == f"{result.suggestion():.4g}"
    assert found["bounds for 1Cycle"] == f"{low:.4g} .. {high:.4g}"
    for name in ("valley", "steep", "minimum", "slide"):
        assert f"{name} {result.suggestion(name):.4g}" in found["rules of thumb"]
    assert found["stopped because"] == "diverged"


def test_the_configuration_below_the_table_is_ready_and_has_four_digits():
    result = sweep()
    [written] = re.findall(r"```json\n(.*)\n```", result.to_markdown(), re.DOTALL)
    exact, shown = result.one_cycle(1000), json.loads(written)["scheduler"]
    assert shown["type"] == exact["type"]
    assert shown["params"] == pytest.approx(exact["params"], rel=5e-4)
    assert f'"cycle_max_lr": {exact["params"]["cycle_max_lr"]:.4g},' in written


def test_the_line_at_the_end_has_steps_reason_and_findings():
    result = sweep()
    low, high = result.bounds()
    assert summarize(result) == (
        f"200 optimizer steps, lr 1e-06 .. {result.lrs[-1]:.3g}, stopped because: diverged; suggested lr"
        f" {result.suggestion():.3g}, bounds for 1Cycle {low:.3g} .. {high:.3g}"
    )


def test_the_steps_of_both_sweeps_are_shown():
    result = replace(sweep(), coarse=shortened(sweep(steps=100), 73))
    assert summarize(result).startswith("73 + 200 optimizer steps, lr 1e-06")
    assert rows(result.to_markdown())["steps"] == "73 + 200"
    found = hyperparameters(result)
    assert (found["coarse_steps"], found["steps"]) == (73, 200)
    assert "coarse_steps" not in hyperparameters(sweep())


def test_of_losses_recorded_every_tenth_step_the_table_counts_the_steps():
    result = sweep()
    sparse = replace(
        result,
        steps=result.steps[9::10],
        **{name: getattr(result, name)[9::10] for name in ("lrs", "losses", "smoothed_losses")},
    )
    assert rows(sparse.to_markdown())["steps"] == "200"


def test_a_notebook_shows_figure_and_table():
    shown = sweep()._repr_html_()
    assert shown.startswith("<img")
    assert "suggested lr" in shown
